"""Decks: our own cases pass, answers do not depend on how a feed writes or orders them, and a wrong case fails."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
from click.testing import CliRunner

from workbench.cli.measures import measures
from workbench.lake import deck
from workbench.lib.measures import UnknownMeasure

DECKS = sorted((Path(__file__).parent / "decks").glob("*.json"))
Raw = dict[str, Any]


def raw(path: Path) -> Raw:
    loaded: Raw = json.loads(path.read_text(encoding="utf-8"))
    return loaded


def judge(*decks: Raw) -> list[deck.CaseResult]:
    return deck.run([deck.parse(json.dumps(d)) for d in decks])


def failures(results: list[deck.CaseResult]) -> list[str]:
    return [r.line() for r in results if not r.passed]


@pytest.mark.parametrize("path", DECKS, ids=lambda p: p.stem)
def test_every_case_of_our_decks_passes(path: Path) -> None:
    results = deck.run([deck.read(path)])
    assert len(results) >= 30
    assert failures(results) == []


def shuffled(d: Raw) -> None:
    random = Random(7)
    for case in d["cases"]:
        random.shuffle(case["claims"])
        random.shuffle(case["enrollment"])
    random.shuffle(d["cases"])


def stripped(d: Raw) -> None:
    for case in d["cases"]:
        for claim in case["claims"]:
            for field in ("dx", "proc", "icd_proc", "rev"):
                claim[field] = [code.replace(".", "") for code in claim[field]]


def lowered(d: Raw) -> None:
    for case in d["cases"]:
        for claim in case["claims"]:
            for field in ("dx", "proc", "icd_proc"):
                claim[field] = [code.lower() for code in claim[field]]


def doubled(d: Raw) -> None:
    for case in d["cases"]:
        case["claims"] = [copy.deepcopy(claim) for claim in case["claims"] for _ in range(2)]


def same_case_ids_twice(d: Raw) -> None:
    d["cases"] = d["cases"] + copy.deepcopy(d["cases"])


CHANGES: tuple[Callable[[Raw], None], ...] = (shuffled, stripped, lowered, doubled, same_case_ids_twice)


@pytest.mark.parametrize("change", CHANGES, ids=lambda c: c.__name__)
@pytest.mark.parametrize("path", DECKS, ids=lambda p: p.stem)
def test_answers_do_not_depend_on_how_the_feed_is_written(path: Path, change: Callable[[Raw], None]) -> None:
    before = {r.case: (r.expected, r.got) for r in judge(raw(path))}
    changed = raw(path)
    change(changed)
    after = {r.case: (r.expected, r.got) for r in judge(changed)}
    assert after == before


def test_answers_do_not_change_when_all_decks_are_loaded_at_once() -> None:
    """Two decks with the same case and claim ids: each case keeps the answer it has alone."""
    one = raw(DECKS[0])
    other = copy.deepcopy(one)
    for case in other["cases"]:
        case["claims"] = []
        case["expected"]["events"] = []
    assert failures(judge(other)) == []
    assert failures(judge(one, other)) == []
    assert [r.passed for r in judge(one, other)] == [True] * (2 * len(one["cases"]))


def flipped_denominator(events: list[Raw]) -> None:
    events[0]["denominator"] = not events[0]["denominator"]


def moved_a_day(events: list[Raw]) -> None:
    events[0]["event_date"] = "2025-12-30"


def flipped_numerator(events: list[Raw]) -> None:
    events[0]["numerators"]["7d"] = not events[0]["numerators"]["7d"]


def forgotten(events: list[Raw]) -> None:
    events.clear()


def invented(events: list[Raw]) -> None:
    events.append({**events[0], "event_date": "2025-11-30"})


@pytest.mark.parametrize("spoil", [flipped_denominator, moved_a_day, flipped_numerator, forgotten, invented])
def test_a_case_with_a_wrong_answer_fails(spoil: Callable[[list[Raw]], None]) -> None:
    spoiled = raw(DECKS[0])
    counted = [case for case in spoiled["cases"] if case["expected"]["events"][0]["denominator"]]
    for case in counted:
        spoil(case["expected"]["events"])
    wrong = {case["id"] for case in counted}
    results = judge(spoiled)
    assert {r.case for r in results if not r.passed} == wrong
    shown = next(r.line() for r in results if not r.passed)
    assert "expected:" in shown
    assert "got:" in shown


def test_a_tempting_wrong_event_that_does_count_fails() -> None:
    """A case that lists an event as not counted fails where the measure counts it."""
    spoiled = raw(DECKS[0])
    case = next(c for c in spoiled["cases"] if c["id"] == "no-follow-up")
    case["expected"]["events"] = [{"event_date": "2025-03-10", "denominator": False, "numerators": None}]
    assert [r.case for r in judge(spoiled) if not r.passed] == ["no-follow-up"]


def run_cli(*arguments: str) -> Any:
    return CliRunner().invoke(measures, list(arguments))


def test_the_command_prints_a_line_a_case_and_a_summary() -> None:
    done = run_cli("deck", *(str(path) for path in DECKS))
    lines = done.output.splitlines()
    cases = sum(len(raw(path)["cases"]) for path in DECKS)
    assert done.exit_code == 0
    assert lines[-1] == f"{cases} passed, 0 failed"
    assert len(lines) == cases + 1


def test_the_command_ends_with_an_error_code_if_a_case_failed(tmp_path: Path) -> None:
    spoiled = raw(DECKS[0])
    spoiled["cases"] = spoiled["cases"][:3]
    spoiled["cases"][0]["expected"]["events"] = []
    file = tmp_path / "spoiled.json"
    file.write_text(json.dumps(spoiled))
    done = run_cli("deck", str(file))
    assert done.exit_code == 1
    assert done.output.splitlines()[-1] == "2 passed, 1 failed"
    told = json.loads(run_cli("deck", str(file), "--json").output)
    assert (told["passed"], told["failed"], len(told["cases"])) == (2, 1, 3)


def test_the_program_refuses_an_unknown_measure_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "other.json"
    file.write_text(json.dumps({"measure": "FUX", "cases": []}))
    program = Path(sys.executable).parent / "workbench"
    done = subprocess.run([program, "measures", "deck", file], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "FUX" in done.stderr
    assert "FUM" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "is not JSON"),
        ('{"measure": "FUM"}', "cases"),
        ('{"measure": "FUM", "cases": [{"id": "a", "member": {}, "claims": [{"claim_id": "1", "from": "March"}], "expected": {"events": []}}]}', r"cases\.0\.claims\.0\.from"),
        ('{"measure": "FUM", "cases": [{"id": "a", "member": {}}]}', r"cases\.0\.expected"),
    ],
)  # fmt: skip
def test_a_broken_deck_is_refused_by_the_field_that_is_wrong(text: str, says: str) -> None:
    with pytest.raises(deck.BrokenDeck, match=says):
        deck.parse(text, "mine.json")


def test_a_missing_deck_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(deck.BrokenDeck, match=r"mine\.json cannot be read"):
        deck.read(tmp_path / "mine.json")


def test_no_deck_runs_if_one_names_an_unknown_measure() -> None:
    with pytest.raises(UnknownMeasure):
        judge(raw(DECKS[0]), {"measure": "FUX", "cases": []})


def test_the_list_names_every_measure() -> None:
    listed = json.loads(run_cli("list", "--json").output)
    assert [row["measure"] for row in listed] == ["FUM"]
    assert run_cli("list").output.startswith("FUM")


@pytest.mark.parametrize(
    ("written", "read"),
    [("99213-95", ("99213", ["95"])), ("99213:GT", ("99213", ["GT"])), ("9921395", ("99213", ["95"])), ("99213", ("99213", [])), ("", (None, []))],
)  # fmt: skip
def test_modifiers_behind_a_procedure_are_split_off(written: str, read: tuple[str | None, list[str]]) -> None:
    assert deck._procedure(written) == read

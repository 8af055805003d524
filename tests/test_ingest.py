"""Every row of a source file is kept or set aside with a reason; a file that cannot be read refuses the build."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from tests.lake_drop import Drop, Record, fill, line, month, rows, year
from workbench.cli.lake import ingest
from workbench.errors import WorkbenchError
from workbench.lake.apcd_layout import ELEMENTS, column_row
from workbench.lake.build import FileAccount, check_sources
from workbench.lake.layouts import SourceRefused, silent
from workbench.lake.release import build

SECRET = "00000001A"


def check(drop: Path) -> tuple[dict[str, FileAccount], list[SourceRefused]]:
    accounts, refused = check_sources(drop, layout_name="native", progress=silent)
    return {account.name: account for account in accounts}, refused


BAD = [
    ("MC", {"_119": "20250231"}, "bad date"),
    ("MC", {"_119": ""}, "bad date"),
    ("MC", {"_024": "2025"}, "bad date"),
    ("MC", {"_119": "20260201"}, "date after the file was made"),
    ("MC", {"_120": "20250309"}, "dates in the wrong order"),
    ("MC", {"_123": "12,50"}, "bad number"),
    ("MC", {"_006": "x"}, "bad number"),
    ("MC", {"_157": "99"}, "unknown claim status"),
    ("MC", {"_005": ""}, "no claim id"),
    ("MC", {"_161": ""}, "no member id"),
    ("MC", {"_161": "00000009Z"}, "unknown member"),
    ("ME", {"_018": "X"}, "unknown sex"),
    ("ME", {"_006": "13"}, "bad date"),
    ("ME", {"_019": "19901345"}, "bad date"),
    ("ME", {"_005": "MMXXV"}, "bad number"),
    ("ME", {"_061": ""}, "no member id"),
    ("ME", {"_003": ""}, "no plan id"),
    ("PC", {"_023": "20251301"}, "bad date"),
    ("PC", {"_032": "many"}, "bad number"),
    ("PC", {"_065": "?"}, "unknown claim status"),
    ("PC", {"_068": "00000009Z"}, "unknown member"),
]
MAKE: dict[str, Callable[..., Record]] = {"ME": month, "MC": line, "PC": fill}


@pytest.fixture(scope="module")
def aside(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], tuple[str, str]]:
    """(kind, row) -> (reason, record) of a release built from every bad record above, a good one before each file's."""
    folder = tmp_path_factory.mktemp("bad")
    bad = {kind: [MAKE[kind](**changes) for k, changes, _ in BAD if k == kind] for kind in MAKE}
    for kind in ("MC", "PC"):
        bad[kind] = [
            {f"CDL{kind}005": f"B{n}", **r} if r[f"CDL{kind}005"] else r for n, r in enumerate(bad[kind])
        ]
    files: dict[str, Iterable[Record]] = {
        "ME_a.txt": [*year(), *bad["ME"]],
        "MC_a.txt": [line(), *bad["MC"]],
        "PC_a.txt": [fill(), *bad["PC"]],
    }
    release = build(Drop(folder / "d", files).write(), folder / "lake")
    rows = [
        row
        for entry in release.manifest["set_aside"]
        for row in pq.read_table(release.path / entry["file"]).to_pylist()
    ]
    assert {s["kind"]: s["kept"] for s in release.manifest["sources"]} == {"ME": 12, "MC": 1, "PC": 1}
    return {(row["source"][:2], row["source_row"]): (row["reason"], row["record"]) for row in rows}


@pytest.mark.parametrize("number", range(len(BAD)), ids=[f"{k} {c} {r}" for k, c, r in BAD])
def test_a_bad_record_is_set_aside_as_it_was_sent_with_its_reason(
    aside: dict[tuple[str, int], tuple[str, str]], number: int
) -> None:
    kind, changes, reason = BAD[number]
    place = [n for n, case in enumerate(BAD) if case[0] == kind].index(number)
    found, record = aside[kind, (13 if kind == "ME" else 2) + place]
    assert found == reason
    assert set(filter(None, changes.values())) <= set(record.split("|"))


def test_short_long_and_undecodable_rows_are_set_aside_and_the_others_kept(tmp_path: Path) -> None:
    drop = Drop(tmp_path / "d", {"ME_a.txt": year()})
    drop.write()
    good = rows("MC", [line("a"), line("b"), line("c"), line("d")])
    path = drop.text("MC_a.txt", [good[0], good[1][:40], good[2] + "|more", good[3].replace("I10", "I1¤")])
    path.write_bytes(path.read_bytes().replace("¤".encode(), b"\xff"))
    account = check(drop.folder)[0]["MC_a.txt"]
    assert account.set_aside == {"long row": 1, "not UTF-8": 1, "short row": 1}
    assert account.kept == 1


def test_repeats_replacements_and_voids_are_accounted_for(tmp_path: Path) -> None:
    claims = [
        line("a"),
        line("a"),
        line("b"),
        line("b", _007="2"),
        line("c"),
        line("c", _007="2", _157="22"),
        line("d", _006="1"),
        line("d", _006="2"),
    ]
    account = check(Drop(tmp_path / "d", {"ME_a.txt": year(), "MC_a.txt": claims}).write())[0]["MC_a.txt"]
    assert account.set_aside == {"duplicate": 1, "superseded version": 2, "void": 1}
    assert account.kept == 4


def test_a_claim_whose_lines_name_two_members_is_set_aside_whole(tmp_path: Path) -> None:
    claims = [line("a"), line("a", member="00000002B", _006="2"), line("b")]
    drop = Drop(tmp_path / "d", {"ME_a.txt": [*year(), *year("00000002B")], "MC_a.txt": claims})
    account = check(drop.write())[0]["MC_a.txt"]
    assert account.set_aside == {"lines of one claim name several members": 2}


def test_an_eligibility_month_sent_twice_counts_once(tmp_path: Path) -> None:
    records = [month(), month(), month(_009="60")]
    account = check(Drop(tmp_path / "d", {"ME_a.txt": records}).write())[0]["ME_a.txt"]
    assert (account.kept, sum(account.set_aside.values())) == (1, 2)


def test_small_files_are_checked_row_by_row(tmp_path: Path) -> None:
    small = {
        "SUME.csv": "member_id,language,phone,email,death_date,county_code\n"
        "00000001A,Hmong,,,,54\n00000009Z,English,,,,01\n00000001A,English,,,2025-99-01,54\nonly,two\n",
        "panel.csv": "member_id,organisation_id,relation,start_date,end_date\n"
        "00000001A,clinic-1,provider,2025-01-01,\n00000001A,clinic-1,landlord,2025-01-01,\n",
        "care_notes.csv": "note_id,member_id,note_date,author_role,claim_id,text\n"
        'N1,00000001A,2025-03-01,nurse care manager,,"two\nlines"\n'
        "N2,00000001A,2025-03-01,psychotherapist,,never\n"
        "N3,00000001A,2025-03-01,SUD counsellor,,never\n"
        "N4,00000001A,2025-03-01,nurse,C404,about a claim that is not there\n",
    }
    accounts, _ = check(Drop(tmp_path / "d", {"ME_a.txt": year()}, small).write())
    assert accounts["SUME.csv"].set_aside == {"bad date": 1, "unknown member": 1, "wrong number of fields": 1}
    assert accounts["panel.csv"].set_aside == {"unknown relation": 1}
    assert accounts["care_notes.csv"].set_aside == {
        "names a claim that is not there": 1,
        "psychotherapy or SUD counselling note, never loaded": 2,
    }
    assert [accounts[name].kept for name in small] == [1, 1, 1]


def _broken(drop: Drop, how: str) -> None:
    name, good = "MC_a.txt", rows("MC", [line(), line("b")])
    columns = column_row("MC").split("|")
    if how == "no trailer":
        path = drop.text(name, good)
        path.write_text("\n".join(path.read_text().splitlines()[:-1]))
    elif how == "wrong count":
        drop.text(name, good, records=3)
    elif how == "no header":
        path = drop.text(name, good)
        path.write_text("\n".join(path.read_text().splitlines()[1:]))
    elif how == "other type":
        path = drop.text(name, good)
        path.write_text(path.read_text().replace("|MC|202501", "|PC|202501"))
    elif how == "missing column":
        drop.text(name, good, columns="|".join(c for c in columns if c != "CDLMC119"))
    elif how == "unknown column":
        drop.text(name, good, columns="|".join([*columns[:-1], "CDLMC777", columns[-1]]))
    elif how == "no column names":
        drop.text(name, good[1:], columns=good[0], records=2)
    elif how == "empty":
        (drop.folder / name).write_text("")
    elif how == "binary":
        (drop.folder / name).write_bytes(bytes(range(256)) * 64)


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("no trailer", "TR record"),
        ("wrong count", "has 2 records, its TR record says 3"),
        ("no header", "HD record"),
        ("other type", "names another type"),
        ("missing column", "lacks CDLMC119"),
        ("unknown column", "unknown CDLMC777"),
        ("no column names", "lacks CDLMC001"),
        ("empty", "HD record"),
        ("binary", "HD record"),
    ],
)
def test_a_file_that_cannot_be_understood_is_refused_by_name_without_a_value(
    tmp_path: Path, how: str, says: str
) -> None:
    drop = Drop(tmp_path / "d", {"ME_a.txt": year()})
    drop.write()
    _broken(drop, how)
    accounts, refused = check(drop.folder)
    assert "MC_a.txt" not in accounts
    assert accounts["ME_a.txt"].kept == 12
    [error] = refused
    assert error.reason.startswith("MC_a.txt ")
    assert says in error.reason
    assert error.hint
    for value in (SECRET, "20250310", "I10", str(tmp_path)):
        assert value not in str(error)


def test_columns_are_found_by_name_wherever_they_stand(tmp_path: Path) -> None:
    drop = Drop(tmp_path / "d", {"ME_a.txt": year()})
    drop.write()
    order = ELEMENTS["MC"][::-1]
    record: dict[str, str] = dict(line("turned"))
    drop.text("MC_a.txt", ["|".join(record.get(name, "") for name in order)], columns="|".join(order))
    account = check(drop.folder)[0]["MC_a.txt"]
    assert (account.kept, account.set_aside) == (1, {})


def test_windows_line_ends_and_blank_lines_at_the_end_are_no_error(tmp_path: Path) -> None:
    drop = Drop(tmp_path / "d", {"ME_a.txt": year(), "MC_a.txt": [line()]})
    path = drop.write() / "MC_a.txt"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n") + b"\r\n\r\n")
    account = check(drop.folder)[0]["MC_a.txt"]
    assert (account.rows, account.kept) == (1, 1)


def test_a_folder_without_eligibility_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceRefused, match="no eligibility file"):
        check(Drop(tmp_path / "d", {"MC_a.txt": [line()]}).write())


def run(*arguments: str) -> Any:
    return CliRunner().invoke(ingest, ["check", *arguments])


def test_ingest_check_prints_the_account_and_ends_with_1_where_a_file_is_refused(tmp_path: Path) -> None:
    drop = Drop(tmp_path / "d", {"ME_a.txt": year(), "MC_a.txt": [line(), line(_119="x")]})
    good = run(str(drop.write()), "--json")
    assert good.exit_code == 0
    files = {f["name"]: f for f in json.loads(good.output)["files"]}
    assert files["MC_a.txt"]["set_aside"] == {"bad date": 1}
    _broken(drop, "wrong count")
    bad = run(str(drop.folder))
    assert bad.exit_code == 1
    assert "refused: MC_a.txt has 2 records" in bad.output
    assert "ME_a.txt" in bad.output


def test_ingest_check_of_one_file_answers_for_that_file(tmp_path: Path) -> None:
    drop = Drop(tmp_path / "d", {"ME_a.txt": year(), "MC_a.txt": [line()]})
    answer = run(str(drop.write() / "MC_a.txt"), "--json")
    assert [f["name"] for f in json.loads(answer.output)["files"]] == ["MC_a.txt"]


def test_ingest_check_refuses_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert isinstance(run(str(tmp_path / "nothing")).exception, WorkbenchError)


@pytest.mark.parametrize(
    ("ends", "kinds"),
    [
        ("\n", {"short row", "long row"}),
        ("\n", {"short row", "long row", "not UTF-8"}),
        ("\r\n", {"short row"}),
    ],
    ids=["lines of other widths", "and other encodings", "Windows line ends"],
)
def test_rows_that_do_not_fit_take_no_other_row_with_them(tmp_path: Path, ends: str, kinds: set[str]) -> None:
    """Odd rows are the first, the last, alone and one after another."""
    sent = rows("MC", [line(f"c{n}") for n in range(9)])
    places = {0: "short row", 3: "long row", 4: "short row", 6: "not UTF-8", 8: "long row"}
    chosen = {n: reason for n, reason in places.items() if reason in kinds}
    make: dict[str, Callable[[str], str]] = {
        "short row": lambda text: text[:40],
        "long row": lambda text: text + "|",
        "not UTF-8": lambda text: text.replace("I10", "I1¤"),
    }
    drop = Drop(tmp_path / "d", {"ME_a.txt": year()})
    path = drop.write() / "MC_a.txt"
    drop.text("MC_a.txt", [make[chosen[n]](text) if n in chosen else text for n, text in enumerate(sent)])
    path.write_bytes(path.read_bytes().replace("¤".encode(), b"\xff").replace(b"\n", ends.encode()))
    release = build(drop.folder, tmp_path / "lake")
    [entry] = [e for e in release.manifest["set_aside"] if "-MC" in e["file"]]
    aside = pq.read_table(release.path / entry["file"]).to_pylist()
    assert {row["source_row"] - 1: row["reason"] for row in aside} == chosen
    kept = {c["claim_id"] for c in pq.read_table(release.parts("medical_claim")[0]).to_pylist()}
    assert kept == {f"c{n}" for n in range(9) if n not in chosen}

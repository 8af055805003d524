"""Promises of slices: precisely the permitted rows, de-identified, whole or not at all."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path
from types import MappingProxyType
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import slice_world as world
import tiny_release
from slice_world import A, B, C, D, E, F, column, grant, query

from workbench.broker import cut, cutter, slices
from workbench.broker.cut import AsOfAfterRelease, NoCut
from workbench.broker.slices import NoRows, Slice, UnknownSlice, ensure, list_slices, open_slice
from workbench.broker.state import State
from workbench.broker.vault import Vault
from workbench.lake.release import Release
from workbench.schema import IdentifierClass, dictionary
from workbench.schema.dictionary import Goes, links
from workbench.schema.sensitive import Category

Lake = tuple[Release, Vault, Path]


@pytest.fixture(scope="module")
def module_lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    """The world's release in a lake with a vault; slices in it are shared by the tests that only read."""
    folder = tmp_path_factory.mktemp("lake")
    state = State(f"sqlite:///{folder / 'state.sqlite'}", folder / "state")
    yield world.release(folder / "lake"), Vault(state), folder / "lake"
    state.close()


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[Lake]:
    """A lake of its own."""
    state = State(f"sqlite:///{tmp_path / 'state.sqlite'}", tmp_path / "state")
    yield world.release(tmp_path / "lake"), Vault(state), tmp_path / "lake"
    state.close()


def built(lake: Lake, **changes: Any) -> Slice:
    release, vault, folder = lake
    return ensure(release, grant(**changes), vault, folder)


def whose(as_of: str, *plans: str) -> dict[str, Any]:
    return {"organisation": {"relation": "mcp", "ids": list(plans) or [world.SIERRA], "as_of": as_of}}


# member × as-of rule → days of claims seen. Sierra Vista's: A always; B until June 2024; C from 2025; E with a gap,
# until November 2025; F from 2024, beside another plan; D never.
ALL = world.DAYS
TRUTH: dict[str, dict[str, list[str]]] = {
    "current": {A: ALL, C: ALL, F: ALL},
    "2024-06-30": {A: ALL, B: ALL, E: ALL, F: ALL},
    "2024-07-01": {A: ALL, E: ALL, F: ALL},
    "2023-07-01": {A: ALL, B: ALL},
    "ever_own_period": {A: ALL, B: ALL[:3], C: ALL[4:], E: [ALL[0], *ALL[2:]], F: ALL[2:]},
}


@pytest.mark.parametrize("as_of", TRUTH)
def test_the_as_of_rule_decides_whose_claims_of_which_days_are_in_the_slice(
    module_lake: Lake, as_of: str
) -> None:
    slice_ = built(module_lake, **whose(as_of), **world.INCLUDED)
    expected = {(member, world.claim(member, day)) for member, days in TRUTH[as_of].items() for day in days}
    assert set(query(slice_, "SELECT member_id, claim_id FROM medical_claim")) == expected
    for table in ("medical_claim_line", "diagnosis", "procedure"):
        assert set(query(slice_, f"SELECT member_id, claim_id FROM {table}")) == expected, table
    for table in ("pharmacy_claim", "care_note"):
        linked = "replace(claim_id, 'rx-', '')"
        assert set(query(slice_, f"SELECT member_id, {linked} FROM {table}")) == expected, table
    assert set(column(slice_, "SELECT member_id FROM member")) == set(TRUTH[as_of])


@pytest.mark.parametrize("as_of", ["current", "ever_own_period"])
def test_nobody_is_a_member_by_an_attribution_that_begins_after_the_as_of_date(
    tmp_path: Path, as_of: str
) -> None:
    rows = world.tables()
    rows["attribution"] += [
        {
            "member_id": D,
            "organisation_id": world.SIERRA,
            "relation": "mcp",
            "start_date": start,
            "end_date": None,
        }
        for start in (date(2026, 2, 1), date(2027, 1, 1))
    ]
    release = tiny_release.write(tmp_path / "lake", rows)
    state = State(f"sqlite:///{tmp_path / 'state.sqlite'}", tmp_path / "state")
    try:
        slice_ = built((release, Vault(state), tmp_path / "lake"), **whose(as_of))
    finally:
        state.close()
    assert set(column(slice_, "SELECT member_id FROM member")) == set(TRUTH[as_of])


def test_a_grant_of_a_day_that_the_release_has_not_reached_is_refused(module_lake: Lake) -> None:
    assert built(module_lake, **whose("2026-01-31")).id
    with pytest.raises(AsOfAfterRelease, match=r"2026-02-01.*2026-01-31"):
        built(module_lake, **whose("2026-02-01"))


def test_two_plans_together_see_a_member_once(module_lake: Lake) -> None:
    slice_ = built(module_lake, **whose("current", world.SIERRA, world.GOLDEN))
    assert sorted(column(slice_, "SELECT member_id FROM member")) == [A, B, C, F]


def test_another_relation_cuts_by_its_own_spans(module_lake: Lake) -> None:
    slice_ = built(module_lake, organisation={"relation": "county", "ids": ["county-19"]})
    assert set(column(slice_, "SELECT member_id FROM member")) == {A, B, C, D, F, E}


def test_a_former_plan_sees_coverage_only_of_its_own_days(module_lake: Lake) -> None:
    slice_ = built(module_lake, **whose("ever_own_period"))
    spans = query(
        slice_,
        f"SELECT start_date::VARCHAR, end_date::VARCHAR FROM attribution WHERE member_id = '{B}' AND relation = 'county'",
    )
    assert spans == [("2023-01-01", "2024-06-30")]
    ends = query(
        slice_, f"SELECT organisation_id, end_date::VARCHAR FROM eligibility WHERE member_id = '{B}'"
    )
    assert ends == [(world.SIERRA, "2024-06-30")]
    assert (
        max(column(slice_, f"SELECT end_date::VARCHAR FROM attribution WHERE member_id = '{E}'"))
        == "2025-11-30"
    )


def test_a_former_plan_does_not_learn_where_its_member_lives_now_or_that_he_died(module_lake: Lake) -> None:
    slice_ = built(module_lake, **whose("ever_own_period"))
    now = "street, city, zip, county_code, phone, email, death_date"
    assert query(slice_, f"SELECT DISTINCT {now} FROM member WHERE member_id IN ('{B}', '{E}')") == [
        (None,) * 7
    ]
    assert query(slice_, f"SELECT street, zip FROM member WHERE member_id = '{A}'") == [
        ("0 Canary Street", "90012")
    ]


def test_a_measure_event_of_a_former_plan_is_its_own(lake: Lake) -> None:
    release, vault, folder = lake
    slice_ = built(lake, **whose("ever_own_period", world.GOLDEN), **world.INCLUDED)
    assert column(slice_, "SELECT count(*) FROM measure_event") == [0]  # all events are Sierra Vista's
    own = ensure(release, grant(**whose("ever_own_period"), **world.INCLUDED), vault, folder)
    # Of who was with another plan or nobody for a while, events are computed anew, and this world's claims make none.
    always = f"WHERE member_id = '{world.A}'"
    assert set(column(own, "SELECT event_id FROM measure_event")) == set(
        column(own, f"SELECT claim_id FROM medical_claim {always}")
    )


TRACES = {
    "medical_claim": "claim_id = '{id}'",
    "medical_claim_line": "claim_id = '{id}'",
    "diagnosis": "claim_id = '{id}' OR code LIKE 'F10%'",
    "procedure": "claim_id = '{id}'",
    "pharmacy_claim": "claim_id = 'rx-{id}'",
    "claim_version": "claim_id IN ('{id}', 'rx-{id}')",
    "care_note": "claim_id = '{id}'",
    "sensitive_claim": "true",
    "measure_event": "event_id = '{id}' OR basis = 'all'",
}


@pytest.mark.parametrize("table", TRACES)
def test_an_excluded_part_2_claim_leaves_no_trace_in_any_table(module_lake: Lake, table: str) -> None:
    trace = f"SELECT count(*) FROM {table} WHERE {TRACES[table].format(id=world.PART2)}"
    assert column(built(module_lake), trace) == [0]
    assert column(built(module_lake, **world.INCLUDED), trace)[0] > 0


def test_the_traces_above_are_all_tables_that_follow_a_claim() -> None:
    assert {name for name, rule in cut.CUTS.items() if rule.claim} == set(TRACES)


def test_every_link_that_the_dictionary_lists_has_a_rule_that_follows_it() -> None:
    for link in links():
        rule = cut.CUTS[link.target]
        follows = rule.recomputed if link.goes == Goes.RECOMPUTED else bool(rule.claim or rule.programs)
        tagged_itself = (link.source, link.target) == ("medical_claim", "pharmacy_claim")
        assert follows or tagged_itself, link
    assert {name for name, rule in cut.CUTS.items() if rule.recomputed} == {
        link.target for link in links() if link.goes == Goes.RECOMPUTED
    }


@pytest.mark.parametrize("category", [c for c in Category if c != Category.PART2])
def test_an_excluded_claim_of_any_category_leaves_no_trace(tmp_path: Path, category: Category) -> None:
    rows = world.tables()
    for tag in rows["sensitive_claim"]:
        tag["category"] = str(category)
    state = State(f"sqlite:///{tmp_path / 's.sqlite'}", tmp_path / "state")
    release, kept = tiny_release.write(tmp_path / "lake", rows), [t for t in TRACES if t != "measure_event"]
    slice_ = ensure(release, grant(tables=kept), Vault(state), tmp_path / "lake")
    state.close()
    for table in kept:
        assert column(
            slice_, f"SELECT count(*) FROM {table} WHERE {TRACES[table].format(id=world.PART2)}"
        ) == [0]
    assert column(slice_, "SELECT count(*) FROM medical_claim") == [17]


def test_every_table_of_members_has_a_rule_of_its_rows_and_a_table_without_one_is_refused(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert {name for name, table in dictionary().items() if table.has_member} == set(cut.CUTS)
    monkeypatch.setattr(
        cutter, "CUTS", MappingProxyType({k: v for k, v in cut.CUTS.items() if k != "care_note"})
    )
    with pytest.raises(NoCut, match="care_note"):
        built(lake)
    assert list_slices(lake[2]) == []


@pytest.mark.parametrize("changes", [{}, world.LIMITED, world.SAFE_HARBOR, whose("ever_own_period")], ids=str)
def test_the_manifest_accounts_for_every_row(module_lake: Lake, changes: dict[str, Any]) -> None:
    slice_ = built(module_lake, **changes)
    for name, entry in slice_.manifest["tables"].items():
        rows_in = sum(pq.read_metadata(part).num_rows for part in module_lake[0].parts(name))
        assert entry["rows_in"] == rows_in, name
        assert (
            entry["rows"] == rows_in - sum(entry["removed"].values()) + entry["split"] + entry["recomputed"]
        ), name
        assert [a["part"] for a in entry["accounts"]] == entry["parts"], name
        assert entry["rows"] == sum(pq.read_metadata(part).num_rows for part in slice_.parts(name)), name
        assert entry["split"] == 0 or name in ("eligibility", "attribution"), name
    assert slice_.manifest["tables"]["member"]["rows"] == slice_.manifest["members"]


def test_the_manifest_says_what_the_cut_did_to_answers(module_lake: Lake) -> None:
    assert built(module_lake).fitness == {
        "dates": "day",
        "categories_removed": list(Category),
        "attribution": "current",
        "complete_through": "2025-12-31",
    }
    assert built(module_lake, **world.SAFE_HARBOR).fitness["dates"] == "year"
    assert (
        built(module_lake, **whose("ever_own_period"), **world.INCLUDED).fitness["categories_removed"] == []
    )
    assert built(module_lake).synthetic


@pytest.mark.parametrize("changes", [world.LIMITED, world.SAFE_HARBOR], ids=["limited", "safe harbor"])
def test_no_original_id_name_or_text_is_in_any_value_or_footer_of_a_de_identified_slice(
    module_lake: Lake, changes: dict[str, Any]
) -> None:
    slice_ = built(module_lake, **changes)
    original = re.compile(
        r"0000000\d[A-F]|[A-F]-20\d\d-\d\d-\d\d|[Cc]anary(?!ville| Clinic)|900-00-000|555-0100"
    )
    for table in slice_.tables():
        for part in slice_.parts(table):
            metadata = pq.read_metadata(part)
            assert set(metadata.metadata or {}) <= {b"ARROW:schema"}
            assert (
                str(world.__file__) not in metadata.created_by
                and "/" not in metadata.created_by.split("(")[0]
            )
            text = part.read_bytes()[-metadata.serialized_size - 8 :].decode("latin-1") + str(
                pq.read_table(part).to_pylist()
            )
            assert not original.search(text), table


def test_safe_harbor_shows_years_ages_to_90_and_zip3_and_no_county(module_lake: Lake) -> None:
    slice_ = built(module_lake, **world.SAFE_HARBOR)
    people = query(slice_, "SELECT birth_year, zip3, death_year FROM member ORDER BY ALL NULLS FIRST")
    assert people[0] == (None, "900", 2025)
    assert [p[0] for p in people[1:]] == [1970, 1985, 1990, 1999, 2015]
    old = "SELECT DISTINCT age FROM member_month m JOIN member p USING (member_id) WHERE birth_year IS NULL"
    assert column(slice_, old) == [90]
    names = {name for columns in slice_.tables().values() for name, _, _ in columns}
    assert not names & {"county_code", "organisation_id", "city", "zip", "billing_npi", "from_date", "text"}


def test_the_smallest_equivalence_class_is_told(module_lake: Lake) -> None:
    found = built(module_lake, **world.SAFE_HARBOR).manifest["equivalence_classes"]
    assert (found["smallest"], found["members_alone"], found["classes"]) == (1, 6, 6)


def test_tokens_join_the_tables_of_a_slice_as_the_ids_did(module_lake: Lake) -> None:
    slice_ = built(module_lake, **world.SAFE_HARBOR, **world.DEIDENTIFIED)
    assert column(
        slice_, "SELECT count(*) FROM medical_claim JOIN diagnosis USING (claim_id, member_id)"
    ) == [36]
    assert column(slice_, "SELECT count(*) FROM care_note JOIN medical_claim USING (claim_id)") == [36]
    assert column(
        slice_, "SELECT count(*) FROM measure_event e JOIN medical_claim c ON c.claim_id = e.event_id"
    ) == [72]
    tokens = column(
        slice_,
        "SELECT member_id FROM member UNION SELECT claim_id FROM medical_claim UNION SELECT note_id FROM care_note",
    )
    assert len(tokens) == 6 + 36 + 36
    assert all(re.fullmatch("[0-9a-f]{32}", token) for token in tokens)


def test_a_token_stays_across_releases_rebuilds_and_edits_of_the_grant_and_differs_between_agreements(
    lake: Lake,
) -> None:
    _, vault, folder = lake

    def tokens(cut_: Slice) -> set[tuple[Any, ...]]:
        return set(query(cut_, "SELECT member_id, claim_id FROM medical_claim"))

    first = tokens(built(lake, **world.LIMITED))
    edited = tokens(built(lake, **world.LIMITED, tables=["member", "medical_claim"]))
    later = world.release(folder, release_id="20260228-0123456789ab", as_of="2026-02-28")
    rebuilt = tokens(ensure(later, grant(**world.LIMITED), vault, folder))
    other = tokens(built(lake, **{**world.LIMITED, "agreement": "A-2"}))
    assert first == edited == rebuilt
    assert not {id for row in first for id in row} & {id for row in other for id in row}


def test_a_token_is_random_and_not_made_from_the_id(tmp_path: Path) -> None:
    tokens = []
    for name in ("one", "two"):
        state = State(f"sqlite:///{tmp_path / name}.sqlite", tmp_path / name)
        tokens.append(Vault(state).tokens("A-1", "member", ["00000001A", "00000002B"]))
        assert Vault(state).tokens("A-1", "member", ["00000002B"]) == {"00000002B": tokens[-1]["00000002B"]}
        assert {p.stat().st_mode & 0o077 for p in (tmp_path / name / "vault").iterdir()} == {0}
        state.close()
    assert not set(tokens[0].values()) & set(tokens[1].values())


def test_the_rows_of_a_de_identified_slice_are_sorted_by_token_and_of_an_identified_one_by_member_and_date(
    module_lake: Lake,
) -> None:
    for changes in (world.LIMITED, world.SAFE_HARBOR):
        slice_ = built(module_lake, **changes)
        for table in ("member", "medical_claim", "diagnosis", "member_month", "eligibility"):
            stored = pq.read_table(slice_.parts(table)[0]).to_pylist()
            assert [r["member_id"] for r in stored] == sorted(r["member_id"] for r in stored)
    stored = pq.read_table(built(module_lake).parts("medical_claim")[0]).to_pylist()
    assert stored == sorted(stored, key=lambda r: (r["member_id"], r["from_date"]))


def test_two_builds_of_the_same_inputs_give_the_same_id_and_the_same_bytes(lake: Lake) -> None:
    release, vault, folder = lake

    def digests(changes: dict[str, Any]) -> dict[str, str]:
        slice_ = ensure(release, grant(**changes), vault, folder)
        found = {
            p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
            for p in slice_.path.rglob("*.*")
        }
        (slice_.path).rename(folder / f"moved-{slice_.id}-{time.monotonic_ns()}")
        return found

    for changes in ({}, world.LIMITED, world.SAFE_HARBOR):
        assert digests(changes) == digests(changes)


def test_equal_policies_share_an_identified_slice_but_never_one_with_tokens(module_lake: Lake) -> None:
    assert built(module_lake).id == built(module_lake, name="other-grant").id
    assert (
        built(module_lake, **world.LIMITED).id != built(module_lake, **world.LIMITED, name="other-grant").id
    )


def test_a_slice_is_built_once_and_opened_afterwards(lake: Lake) -> None:
    first = built(lake)
    written = (first.path / "manifest.json").stat().st_mtime_ns
    assert built(lake) == first
    assert (first.path / "manifest.json").stat().st_mtime_ns == written
    assert [s.id for s in list_slices(lake[2])] == [first.id]
    assert open_slice(lake[2], first.id).manifest == first.manifest


def test_an_unknown_slice_is_refused_and_a_path_is_no_id(lake: Lake) -> None:
    for id in ("0" * 24, "../releases/" + lake[0].id):
        with pytest.raises(UnknownSlice):
            open_slice(lake[2], id)


def test_a_grant_without_rows_has_no_slice(lake: Lake) -> None:
    public = {"level": "aggregate", "organisation": {"relation": "state"}, "channels": ["tabulate"]}
    with pytest.raises(NoRows, match="tables, no rows"):
        built(lake, **public)


def test_a_grant_that_names_tables_gets_these_only(module_lake: Lake) -> None:
    slice_ = built(module_lake, tables=["member", "diagnosis"])
    assert set(slice_.tables()) == {"member", "diagnosis"}
    assert sorted(p.name for p in (slice_.path / "tables").iterdir()) == ["diagnosis", "member"]


def test_a_slice_folder_holds_its_manifest_and_tables_and_is_readable_by_a_worker_of_another_uid(
    module_lake: Lake,
) -> None:
    old = os.umask(0o077)
    try:
        slice_ = built(module_lake, tables=["member", "provider"])
    finally:
        os.umask(old)
    assert sorted(p.name for p in slice_.path.iterdir()) == ["manifest.json", "tables"]
    modes = {p.stat().st_mode & 0o777 for p in slice_.path.rglob("*") if p.is_file()}
    assert modes == {0o644}
    assert {p.stat().st_mode & 0o777 for p in [slice_.path, *slice_.path.rglob("*")] if p.is_dir()} == {0o755}


def test_the_columns_of_a_slice_say_their_type_and_meaning(module_lake: Lake) -> None:
    slice_ = built(module_lake, **world.SAFE_HARBOR)
    for table, columns in slice_.tables().items():
        schema = query(slice_, f"DESCRIBE {table}")
        assert [(name, kind) for name, kind, _ in columns] == [(row[0], row[1]) for row in schema]
        assert all(means for _, _, means in columns)


BUILD = """
import resource, sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
import slice_world
from workbench.broker import slices
from workbench.broker.slices import ensure
from workbench.broker.state import State
from workbench.broker.vault import Vault
from workbench.lake.release import open_release
lake = Path({lake!r})
state = State("sqlite://", lake.parent / "other-state")
def progress(what, done, total):
    print(what, flush=True)
    if what == {pause_at!r}:
        time.sleep(600)
if {limit}:
    resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
try:
    ensure(open_release(lake), slice_world.grant(), Vault(state), lake, progress)
except Exception as error:
    print(type(error).__name__, error)
"""


def builder(lake: Lake, *, limit: int = 0, pause_at: str = "") -> subprocess.Popen[str]:
    script = BUILD.format(tests=str(Path(__file__).parent), lake=str(lake[2]), limit=limit, pause_at=pause_at)
    return subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def left_in(lake: Lake) -> list[str]:
    """What stands in the lake's slices but for the notes on them; every list of members there is whole."""
    folder = lake[2] / "slices"
    for listed in (folder / "members").iterdir():
        pq.read_table(listed)
    return sorted(p.name for p in folder.iterdir() if p.name not in ("members", "usage"))


def test_a_full_disk_is_said_clearly_and_nothing_is_half_published(lake: Lake) -> None:
    output, _ = builder(lake, limit=2000).communicate(timeout=200)
    assert "DiskFull The disk is full" in output
    assert str(lake[2]) not in output
    assert left_in(lake) == []
    assert built(lake).manifest["members"] == 3


def test_a_build_that_is_killed_leaves_nothing_that_counts_and_the_next_one_clears_up(lake: Lake) -> None:
    process = builder(lake, pause_at="diagnosis")
    assert process.stdout is not None
    while process.stdout.readline().strip() != "diagnosis":
        pass
    process.send_signal(signal.SIGKILL)
    process.communicate()
    left = left_in(lake)
    assert len(left) == 1 and left[0].startswith(".building-")
    assert list_slices(lake[2]) == []
    slice_ = built(lake)
    assert left_in(lake) == [slice_.id]


def test_an_engine_error_gives_no_path_and_no_value(lake: Lake) -> None:
    release, vault, folder = lake
    part = release.parts("diagnosis")[0]
    part.chmod(0o600)
    part.write_bytes(b"PAR1 canary PAR1")
    with pytest.raises(slices.BuildFailed) as caught:
        ensure(replace(release), grant(), vault, folder)
    assert str(folder) not in str(caught.value) and "canary" not in str(caught.value)
    assert left_in((release, vault, folder)) == []


def test_the_classes_that_name_a_person_are_those_that_the_levels_replace() -> None:
    keys = {IdentifierClass.MEMBER_KEY, IdentifierClass.CLAIM_KEY}
    named = {c.name for t in dictionary().values() for c in t.columns.values() if c.identifier_class in keys}
    assert named == {"member_id", "claim_id", "event_id", "note_id"}


def test_a_sorted_release_stays_sorted_in_an_identified_slice_of_many_row_groups(tmp_path: Path) -> None:
    """400,000 lines in two parts, sorted as a release build sorts them: the slice does not sort them again."""
    with duckdb.connect() as con:
        lines = con.sql(
            "SELECT printf('C%06d', i // 2) AS claim_id, (i % 2)::INTEGER AS line_number, "
            "printf('%08dA', i // 40) AS member_id, DATE '2025-01-01' + (i // 2 % 20)::INTEGER AS from_date FROM range(400000) t(i)"
        ).to_arrow_table()
        members = con.sql("SELECT printf('%08dA', i) AS member_id FROM range(10000) t(i)").to_arrow_table()
    empty = {name: table.arrow_schema.empty_table() for name, table in dictionary().items()}
    tables: dict[str, Any] = {
        "medical_claim_line": _widened(lines, empty["medical_claim_line"]),
        "member": _widened(members, empty["member"]),
        "attribution": [
            {
                "member_id": id,
                "organisation_id": "sierra-vista",
                "relation": "mcp",
                "start_date": date(2023, 1, 1),
            }
            for id in members.column("member_id").to_pylist()[::3]
        ],
    }
    release = tiny_release.write(tmp_path / "lake", tables)
    release.manifest["tables"]["medical_claim_line"]["sorted_by"] = [
        "member_id",
        "from_date",
        "claim_id",
        "line_number",
    ]
    state = State(f"sqlite:///{tmp_path / 's.sqlite'}", tmp_path / "state")
    stored = pq.read_table(
        ensure(release, grant(), Vault(state), tmp_path / "lake").parts("medical_claim_line")[0]
    )
    state.close()
    order = stored.select(["member_id", "from_date", "claim_id", "line_number"])
    assert stored.num_rows > 130_000
    assert order.equals(order.sort_by([(name, "ascending") for name in order.column_names]))


def test_a_de_identified_slice_of_many_row_groups_is_in_the_order_of_its_tokens(tmp_path: Path) -> None:
    """A million lines, sorted as numbers by all threads, and written as text: no row group may overtake another."""
    with duckdb.connect() as con:
        lines = con.sql(
            "SELECT printf('C%06d', i // 2) AS claim_id, (i % 2)::INTEGER AS line_number, "
            "printf('%08dA', i // 40) AS member_id, DATE '2025-01-01' AS from_date FROM range(1000000) t(i)"
        ).to_arrow_table()
        claims = con.sql("SELECT DISTINCT claim_id, member_id, from_date FROM lines").to_arrow_table()
        members = con.sql("SELECT DISTINCT member_id FROM lines").to_arrow_table()
    empty = {name: table.arrow_schema.empty_table() for name, table in dictionary().items()}
    given = {"medical_claim_line": lines, "medical_claim": claims, "member": members}
    release = tiny_release.write(
        tmp_path / "lake", {name: _widened(rows, empty[name]) for name, rows in given.items()}
    )
    state = State(f"sqlite:///{tmp_path / 's.sqlite'}", tmp_path / "state")
    whole = grant(**{**world.LIMITED, "organisation": {"relation": "state"}})
    parts = ensure(release, whole, Vault(state), tmp_path / "lake").parts("medical_claim_line")
    state.close()
    stored = pq.ParquetFile(parts[0])
    order = stored.read().select(["member_id", "claim_id", "line_number"])
    assert stored.metadata.num_row_groups >= 8 and order.num_rows == 1_000_000
    assert order.equals(order.sort_by([(name, "ascending") for name in order.column_names]))


def _widened(given: pa.Table, empty: pa.Table) -> pa.Table:
    """A table with all columns of the dictionary; those that were not given are empty."""
    return pa.concat_tables([empty, given], promote_options="permissive").cast(empty.schema)


def test_a_million_members_get_their_tokens_quickly_and_a_second_time_the_same(tmp_path: Path) -> None:
    state = State(f"sqlite:///{tmp_path / 's.sqlite'}", tmp_path / "state")
    vault = Vault(state)
    with duckdb.connect() as con:
        ids = "SELECT printf('%08dA', i) FROM range(1000000) t(i)"
        used = time.process_time()
        pairs = vault.cover(con, "A", "member", ids)
        found = con.execute(
            f"SELECT count(*), count(DISTINCT token), min(length(token)) FROM {pairs}"
        ).fetchall()
        assert found == [(1_000_000, 1_000_000, 32)]
        assert time.process_time() - used < 30
        again = vault.cover(con, "A", "member", ids)
        token = con.execute(f"SELECT token FROM {again} WHERE original = '00000007A'").fetchall()
        assert token == [(vault.tokens("A", "member", ["00000007A"])["00000007A"],)]
    state.close()

"""The benchmarks themselves, on a release of a few hundred members: that they run, and that they compare like with like."""

from __future__ import annotations

import json

import duckdb
import pytest

from benchmarks import (
    bench_callers,
    bench_lookup,
    bench_queries,
    bench_slices,
    bench_streams,
    harness,
    multiply,
)
from benchmarks.world import World
from workbench.lake.release import Release, list_releases
from workbench.schema import IdentifierClass, dictionary

MEMBERS, LINES = 900, 27_000


@pytest.fixture(scope="module")
def where(tmp_path_factory) -> World:
    world = World(tmp_path_factory.mktemp("bench"), MEMBERS, LINES)
    world.release()
    return world


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(bench_queries, "TURNS", 1)
    monkeypatch.setattr(bench_queries, "WHOLE_LAKE_TURNS", 1)
    monkeypatch.setattr(bench_queries, "GATE_RUNS", 1)
    monkeypatch.setattr(bench_streams, "TURNS", 1)
    monkeypatch.setattr(bench_slices, "TURNS", 1)
    monkeypatch.setattr(bench_callers, "ALONE", 5)
    monkeypatch.setattr(bench_callers, "CALLERS", 4)
    monkeypatch.setattr(bench_lookup, "LOOKUPS", 5)


def _rows(release: Release, query: str) -> list[tuple]:
    return duckdb.execute(
        query.format(**{name: release.relation(name) for name in release.tables()})
    ).fetchall()


def test_the_multiplied_release_has_the_members_and_lines_that_were_asked_for(where):
    release = where.release()
    assert release.manifest["tables"]["member"]["rows"] == MEMBERS
    lines = release.manifest["tables"]["medical_claim_line"]["rows"]
    assert LINES * 0.97 <= lines <= LINES * 1.05


def test_every_copy_is_a_member_of_its_own_with_claims_of_its_own(where):
    release = where.release()
    for name in release.tables():
        key = ", ".join(dictionary()[name].key)
        rows, distinct = _rows(release, f"SELECT count(*), count(DISTINCT ({key})) FROM {{{name}}}")[0]
        assert rows == distinct > 0, name
        for column in dictionary()[name].columns.values():
            if column.identifier_class == IdentifierClass.CLAIM_KEY:
                shared = f"SELECT count(*) FROM (SELECT {column.name} FROM {{{name}}} WHERE {column.name} IS NOT NULL "
                shared += "GROUP BY 1 HAVING count(DISTINCT member_id) > 1)"
                assert _rows(release, shared) == [(0,)], f"{name}.{column.name}"


def test_what_belongs_together_stays_together_in_every_copy(where):
    release = where.release()
    for name in ("medical_claim_line", "diagnosis", "sensitive_claim"):
        kind = "AND kind = 'medical'" if name == "sensitive_claim" else ""
        lost = f"SELECT count(*) FROM {{{name}}} s ANTI JOIN {{medical_claim}} c USING (claim_id, member_id) WHERE true {kind}"
        assert _rows(release, lost) == [(0,)], name
    late = "SELECT count(*) FROM {diagnosis} d JOIN {medical_claim} c USING (claim_id) WHERE d.from_date <> c.from_date"
    base = where._base((where.folder / "made").read_text())
    assert _rows(release, late) == _rows(base, late) == [(0,)]


def test_the_files_are_sorted_as_a_release_is_so_that_a_slice_need_not_sort_again(where):
    release = where.release()
    for name, entry in release.manifest["tables"].items():
        assert entry["sorted_by"] == multiply.sort_order(dictionary()[name])
        found = _rows(release, f"SELECT {', '.join(entry['sorted_by'])} FROM {{{name}}}")
        assert found == sorted(found, key=lambda row: [(value is None, value) for value in row]), name


def test_a_multiplication_that_was_stopped_goes_on_where_it_was(where, tmp_path, monkeypatch):
    base = where._base((where.folder / "made").read_text())
    monkeypatch.setattr(multiply, "MEMBERS_PER_PART", 300)
    written: list[str] = []

    def stop_in_the_lines(what: str) -> None:
        written.append(what)
        if what == "medical_claim_line 2/3":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        multiply.multiply(base, tmp_path, MEMBERS, LINES, stop_in_the_lines, threads=1)
    assert list_releases(tmp_path) == []
    again: list[str] = []
    release = multiply.multiply(base, tmp_path, MEMBERS, LINES, again.append, threads=1)
    assert again[0] == "medical_claim_line 2/3" and "member 1/3" not in again
    assert [len(release.manifest["tables"][name]["parts"]) for name in ("member", "provider")] == [3, 1]
    firsts = _rows(release, "SELECT min(member_id), max(member_id), count(*) FROM {member}")
    assert firsts == _rows(where.release(), "SELECT min(member_id), max(member_id), count(*) FROM {member}")
    assert not (tmp_path / "multiplying").exists()


def test_the_release_is_made_once_and_again_only_where_the_dictionary_has_changed(where, monkeypatch):
    first = where.release()
    made = (first.path / "manifest.json").stat().st_mtime_ns
    assert (where.release().path / "manifest.json").stat().st_mtime_ns == made
    (where.folder / "made").write_text("another dictionary")
    assert (where.release().path / "manifest.json").stat().st_mtime_ns > made


@pytest.mark.sandbox
@pytest.mark.parametrize("bench", [bench_queries, bench_streams, bench_callers, bench_lookup])
def test_a_benchmark_of_the_broker_measures_what_it_says(where, quick, bench):
    figures = bench.run(where)
    assert figures and all(figure.ours > 0 for figure in figures)
    assert all(figure.ratio for figure in figures if figure.alternative is not None)


def test_slices_of_every_level_are_built_and_compared_with_a_copy_of_the_same_rows(where, quick):
    figures = bench_slices.run(where)
    assert [figure.name for figure in figures] == [
        f"slice build, {level}"
        for level in ("identified", "identified, no sensitive categories", "limited", "safe_harbor")
    ]
    assert all(figure.runs == 1 and figure.alternative for figure in figures)


def test_the_page_says_which_targets_were_met_and_which_figures_have_none(tmp_path, monkeypatch):
    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    page = tmp_path / "performance.md"
    told = harness.against("overhead", {"ours": [2.0], "alternative": [1.0]}, "a view", None)
    late = harness.absolute("late", [2.0], 1.0)
    harness.write([told, late, harness.memory("memory", 300 << 20, 500 << 20)], "latest", page, "3 members")
    text = page.read_text()
    assert "* data: 3 members" in text
    assert "| overhead | 2.00 s | 1.00 s | a view | 2.00× | told | – |" in text
    assert "| late | 2.00 s | – | – | – | ≤ 1.00 s | **no** |" in text
    assert "| memory | 300 MB | – | – | – | < 500 MB | yes |" in text
    assert set(json.loads((tmp_path / "latest.json").read_text())["figures"]) == {
        "overhead",
        "late",
        "memory",
    }

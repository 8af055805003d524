"""On releases of real people a drug that nobody can name blocks every grant that must leave out what drugs tell of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import slice_world
from click.testing import CliRunner

from tests.lake_drop import Drop, Record, fill, line, year
from workbench.broker.law import UnknownDrugs, UnsourcedCategory, blocked, refuse_unsourced
from workbench.broker.slices import ensure, list_slices
from workbench.broker.state import State
from workbench.broker.vault import Vault
from workbench.cli.policy import policy
from workbench.lake.layouts import SourceRefused
from workbench.lake.release import Release, build, open_release
from workbench.schema.sensitive import BY_DRUG, Category
from workbench.settings import PROJECT

SUBOXONE = "12496120803"
MAPPED = "ndc,ingredient\n12496-1208-03,Buprenorphine / Naloxone\n"
LEFT_OUT = {str(c): "include" for c in Category} | {"part2": "exclude"}
"""A grant that leaves out Part 2 only, so that no other category's list blocks it."""


def released(
    where: Path, *fills: Record, lines: tuple[Record, ...] = (), synthetic: bool = False, **small: str
) -> Release:
    """A release of one member, of real people unless said."""
    files = {"ME_a.txt": year(), "MC_a.txt": [line(), *lines], "PC_a.txt": [fill(), *fills]}
    drop = Drop(
        where / "sources", files, {name.replace("_csv", ".csv"): text for name, text in small.items()}
    )
    sources = drop.write()
    (sources / "sources.json").write_text(json.dumps({"synthetic": synthetic}), encoding="utf-8")
    return build(sources, where / "lake")


def rows(release: Release, table: str) -> list[dict[str, Any]]:
    return [row for part in release.parts(table) for row in pq.read_table(part).to_pylist()]


def hides(**handling: str) -> Any:
    return slice_world.grant(**{**slice_world.INCLUDED, "sensitive": {**LEFT_OUT, **handling}})


def test_a_fill_of_an_unknown_drug_blocks_the_grants_that_leave_out_what_drugs_tell_of(
    tmp_path: Path,
) -> None:
    release = released(
        tmp_path, fill("P2", _025=SUBOXONE), fill("P3", _025=""), lines=(line("C2", _133=SUBOXONE),)
    )
    assert release.unknown_drugs == (2, 1)
    with pytest.raises(UnknownDrugs) as caught:
        refuse_unsourced(hides(), release)
    assert "part2" in caught.value.reason and caught.value.http_status == 403
    assert "2 fills and 1 lines" in caught.value.reason and "ndc_ingredients.csv" in caught.value.hint
    assert SUBOXONE not in caught.value.reason + caught.value.hint
    assert blocked(hides(), release) == (Category.PART2,)
    with pytest.raises(UnknownDrugs):
        refuse_unsourced(hides(part2="with_consent", basis="consent_tpo"), release)


def test_nothing_is_built_for_such_a_grant_and_one_that_leaves_out_nothing_by_drug_is_served(
    tmp_path: Path,
) -> None:
    release = released(tmp_path, fill("P2", _025=SUBOXONE))
    state = State(f"sqlite:///{tmp_path / 's.sqlite'}", tmp_path / "state")
    vault, lake = Vault(state), tmp_path / "lake"
    with pytest.raises(UnknownDrugs):
        ensure(release, hides(), vault, lake)
    assert list_slices(lake) == []
    other = hides(part2="include", basis="audit_evaluation_2_53", intimate_partner_violence="exclude")
    assert blocked(other, release) == ()
    assert ensure(release, other, vault, lake).tables()
    state.close()


def test_a_map_that_the_state_brings_names_the_drug_and_lifts_the_block(tmp_path: Path) -> None:
    release = released(
        tmp_path,
        fill("P2", _025=SUBOXONE),
        lines=(line("C2", _133=SUBOXONE),),
        ndc_ingredients_csv=MAPPED,
    )
    assert release.unknown_drugs == (0, 0)
    refuse_unsourced(hides(), release)
    found = {(r["kind"], r["claim_id"], r["category"], r["reason"]) for r in rows(release, "sensitive_claim")}
    assert found == {("pharmacy", "P2", "part2", "drug"), ("medical", "C2", "part2", "drug")}
    named = {r["claim_id"]: r["drug_name"] for r in rows(release, "pharmacy_claim")}
    assert named == {"P1": "sertraline", "P2": "buprenorphine / naloxone"}


def test_an_ndc_named_twice_has_both_ingredients(tmp_path: Path) -> None:
    said = f"ndc,ingredient\n{SUBOXONE},naloxone\n{SUBOXONE},buprenorphine\n"
    release = released(tmp_path, fill("P2", _025=SUBOXONE), ndc_ingredients_csv=said)
    assert {(r["claim_id"], r["category"]) for r in rows(release, "sensitive_claim")} == {("P2", "part2")}


@pytest.mark.parametrize("said", ["12496-1208-3", "12496-1208-03", "12496120803", " 12496-1208-03 "])
def test_an_ndc_of_the_map_may_be_written_in_each_of_fdas_forms(tmp_path: Path, said: str) -> None:
    release = released(
        tmp_path, fill("P2", _025=SUBOXONE), ndc_ingredients_csv=f"ndc,ingredient\n{said},buprenorphine\n"
    )
    assert release.unknown_drugs == (0, 0)


def test_a_row_of_the_map_that_names_nothing_is_set_aside_and_names_nothing(tmp_path: Path) -> None:
    said = f"ndc,ingredient\n{SUBOXONE},-\n1249612080,buprenorphine\n,methadone\n"
    release = released(tmp_path, fill("P2", _025=SUBOXONE), ndc_ingredients_csv=said)
    account = next(a for a in release.manifest["sources"] if a["name"] == "ndc_ingredients.csv")
    assert account["set_aside"] == {"bad NDC": 2, "no ingredient": 1} and account["kept"] == 0
    assert release.unknown_drugs == (1, 0)


def test_a_map_without_its_columns_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceRefused):
        released(tmp_path, ndc_ingredients_csv="ndc,brand\n12496120803,Suboxone\n")


def test_what_the_map_holds_is_in_no_table_of_the_release(tmp_path: Path) -> None:
    release = released(tmp_path, ndc_ingredients_csv=MAPPED)
    assert not any(
        SUBOXONE in str(row.values()) for table in release.tables() for row in rows(release, table)
    )


def test_a_release_of_real_people_that_did_not_count_is_blocked_too(tmp_path: Path) -> None:
    release = released(tmp_path)
    refuse_unsourced(hides(), release)
    manifest = release.path / "manifest.json"
    old = {k: v for k, v in json.loads(manifest.read_text()).items() if k != "unknown_drugs"}
    manifest.chmod(0o600)
    manifest.write_text(json.dumps(old))
    with pytest.raises(UnknownDrugs, match="before drugs"):
        refuse_unsourced(hides(), open_release(tmp_path / "lake", release.id))


def test_invented_people_may_take_unknown_drugs(tmp_path: Path) -> None:
    release = released(tmp_path, fill("P2", _025=SUBOXONE), synthetic=True)
    assert release.unknown_drugs == (1, 0)
    refuse_unsourced(hides(hiv="exclude"), release)


def test_a_list_that_is_not_sourced_is_told_first(tmp_path: Path) -> None:
    release = released(tmp_path, fill("P2", _025=SUBOXONE))
    with pytest.raises(UnsourcedCategory):
        refuse_unsourced(hides(hiv="exclude"), release)


def test_the_categories_by_drug_are_those_whose_list_names_ingredients_and_what_rests_on_them() -> None:
    assert {Category.PART2, Category.REPRODUCTIVE, Category.HIV, Category.MINOR_CONSENT} == BY_DRUG


def test_policy_check_says_that_ndcs_have_no_sourced_list() -> None:
    output = CliRunner().invoke(policy, ["check", "--grants", str(PROJECT / "grants")]).output
    said = [text for text in output.splitlines() if "ingredient of any drug" in text]
    assert any("demo-analyst.yaml" in text and "part2" in text for text in said)
    assert not any("demo-research-sh.yaml" in text for text in said)


def test_the_tuva_layout_takes_the_map_too(tmp_path: Path) -> None:
    from workbench.lake.layouts.tuva import FILES, Tuva

    for name in FILES:
        (tmp_path / f"{name}.csv").write_text(",".join(FILES[name]) + "\n", encoding="utf-8")
    (tmp_path / "ndc_ingredients.csv").write_text(MAPPED, encoding="utf-8")
    assert [file.name for file in Tuva().sources(tmp_path)][-1] == "ndc_ingredients.csv"

"""The native layout: APCD-CDL eligibility, medical, pharmacy and provider files, and small CSV files of our own.

ME_*.txt MC_*.txt PC_*.txt PV_*.txt   APCD-CDL (workbench.lake.apcd_layout)
SUME.csv            member_id,language,phone,email,death_date,county_code
organisations.csv   organisation_id,name,kind,county_code
providers.csv       npi,name,taxonomy,county_code,part2_program
panel.csv           member_id,organisation_id,relation,start_date,end_date
care_notes.csv      note_id,member_id,note_date,author_role,claim_id,text
ndc_ingredients.csv ndc,ingredient (workbench.lake.layouts.ndc)
sources.json        {"synthetic": true, …}
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.lake.layouts import SourceFile, SourceRefused
from workbench.lake.layouts.apcd import read_apcd, read_envelope
from workbench.lake.layouts.files import csv_records, line_records, load_csv, source_file
from workbench.lake.layouts.ndc import NAME as NDC_MAP
from workbench.lake.layouts.ndc import read_ndc_map

if TYPE_CHECKING:
    import pyarrow as pa

    from workbench.lake.layouts.stage import Stage

APCD_KINDS = ("ME", "MC", "PC", "PV")
CSV_FILES = {
    "SUME.csv": ("member_id", "language", "phone", "email", "death_date", "county_code"),
    "organisations.csv": ("organisation_id", "name", "kind", "county_code"),
    "providers.csv": ("npi", "name", "taxonomy", "county_code", "part2_program"),
    "panel.csv": ("member_id", "organisation_id", "relation", "start_date", "end_date"),
    "care_notes.csv": ("note_id", "member_id", "note_date", "author_role", "claim_id", "text"),
}
NEVER_LOADED = r"(psychotherap|sud|substance|addiction).*(note|counsel|therap)|psychotherap"
"""Roles of authors whose notes are never loaded (lower case): psychotherapy notes, 45 CFR 164.501, and SUD
counselling notes, 42 CFR 2.11. The set-aside folder keeps their row number only."""


class Native:
    """Reader of the native layout."""

    name = "native"
    about = "APCD-CDL ME, MC, PC, PV files and our small CSV files"

    def sources(self, folder: Path) -> Sequence[SourceFile]:
        """Eligibility first: everything else is checked against it."""
        found = [
            source_file(folder, path, kind)
            for kind in APCD_KINDS
            for path in sorted(folder.glob(f"{kind}_*.txt"))
        ]
        if not any(file.kind == "ME" for file in found):
            raise SourceRefused(
                "The source folder has no eligibility file (ME_*.txt).",
                hint="Name the folder that holds the ME, MC, PC and PV files, or choose another --layout.",
            )
        small = [folder / name for name in (*CSV_FILES, NDC_MAP) if (folder / name).is_file()]
        return found + [source_file(folder, path, path.stem) for path in small]

    def origin(self, folder: Path) -> dict[str, Any]:
        path = folder / "sources.json"
        if not path.is_file():
            return {"synthetic": False}
        try:
            origin = json.loads(path.read_text(encoding="utf-8"))
            return {**origin, "synthetic": bool(origin.get("synthetic"))}
        except (ValueError, AttributeError):
            raise SourceRefused(
                "sources.json is no JSON object.", hint="Correct it or take it away."
            ) from None

    def read(self, file: SourceFile, number: int, stage: Stage) -> None:
        if file.kind in APCD_KINDS:
            read_apcd(file, number, stage)
        elif file.path.name == NDC_MAP:
            read_ndc_map(file, number, stage)
        else:
            load_csv(file, number, stage, "small", CSV_FILES[file.path.name])
            _SMALL[file.path.name](stage)
            stage.con.execute("DROP TABLE small")

    def records(self, file: SourceFile) -> pa.RecordBatchReader:
        if file.kind in APCD_KINDS:
            return line_records(file.path, skip=2, stop=2 + read_envelope(file).records)
        return csv_records(file)


def _keep(stage: Stage, table: str, columns: str, reason: str) -> None:
    """Rows of `small` with a reason go to set_aside, the others to a stage table."""
    stage.con.execute(f"CREATE OR REPLACE TEMP TABLE judged AS SELECT *, {reason} AS reason FROM small")
    stage.set_aside("SELECT source_file, source_row, reason FROM judged WHERE reason IS NOT NULL")
    stage.insert(table, f"SELECT source_file, source_row, {columns} FROM judged WHERE reason IS NULL")
    stage.con.execute("DROP TABLE judged")


def _bad_day(*columns: str) -> str:
    return " OR ".join(f"(wb_text({c}) IS NOT NULL AND wb_day({c}) IS NULL)" for c in columns)


_UNKNOWN_MEMBER = "wb_text(member_id) IS NULL OR trim(member_id) NOT IN (SELECT member_id FROM stage.member)"


def _sume(stage: Stage) -> None:
    _keep(
        stage,
        "member",
        """trim(member_id) AS member_id, DATE '9999-12-31' AS reported, wb_text(language) AS language,
        wb_text(phone) AS phone, wb_text(email) AS email, wb_day(death_date) AS death_date,
        wb_text(county_code) AS county_code""",
        f"CASE WHEN {_bad_day('death_date')} THEN 'bad date' WHEN {_UNKNOWN_MEMBER} THEN 'unknown member' END",
    )


def _organisations(stage: Stage) -> None:
    _keep(
        stage,
        "organisation",
        """trim(organisation_id) AS organisation_id, wb_text(name) AS name, lower(trim(kind)) AS kind,
        wb_text(county_code) AS county_code""",
        """CASE WHEN wb_text(organisation_id) IS NULL THEN 'no organisation id'
        WHEN lower(trim(kind)) NOT IN ('mcp', 'bhp', 'dmc_ods', 'county', 'provider', 'tribe', 'state') THEN 'unknown kind' END""",
    )


def _providers(stage: Stage) -> None:
    _keep(
        stage,
        "provider",
        """trim(npi) AS npi, wb_text(name) AS name, wb_code(taxonomy) AS taxonomy,
        wb_text(county_code) AS county_code, coalesce(wb_flag(part2_program), false) AS part2_program""",
        """CASE WHEN wb_text(npi) IS NULL THEN 'no NPI'
        WHEN wb_text(part2_program) IS NOT NULL AND wb_flag(part2_program) IS NULL THEN 'bad flag' END""",
    )


def _panel(stage: Stage) -> None:
    _keep(
        stage,
        "attribution",
        """trim(member_id) AS member_id, trim(organisation_id) AS organisation_id,
        lower(trim(relation)) AS relation, wb_day(start_date) AS start_date, wb_day(end_date) AS end_date""",
        f"""CASE WHEN {_bad_day("start_date", "end_date")} OR wb_day(start_date) IS NULL THEN 'bad date'
        WHEN wb_day(end_date) < wb_day(start_date) THEN 'dates in the wrong order'
        WHEN wb_text(organisation_id) IS NULL THEN 'no organisation id'
        WHEN lower(trim(relation)) NOT IN ('provider', 'tribe') THEN 'unknown relation' END""",
    )


def _care_notes(stage: Stage) -> None:
    forbidden = f"regexp_matches(lower(coalesce(author_role, '')), '{NEVER_LOADED}')"
    stage.set_aside(
        f"""SELECT source_file, source_row, 'psychotherapy or SUD counselling note, never loaded' AS reason,
        '' AS record FROM small WHERE {forbidden}"""
    )
    stage.con.execute(f"DELETE FROM small WHERE {forbidden}")
    _keep(
        stage,
        "care_note",
        """trim(note_id) AS note_id, trim(member_id) AS member_id, wb_day(note_date) AS note_date,
        wb_text(author_role) AS author_role, wb_text(claim_id) AS claim_id, wb_text(text) AS text""",
        f"""CASE WHEN wb_text(note_id) IS NULL THEN 'no note id'
        WHEN {_bad_day("note_date")} THEN 'bad date' END""",
    )


_SMALL = {
    "SUME.csv": _sume,
    "organisations.csv": _organisations,
    "providers.csv": _providers,
    "panel.csv": _panel,
    "care_notes.csv": _care_notes,
}

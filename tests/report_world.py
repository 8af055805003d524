"""A lake of 170 invented members for the reports, and a catalogue of small templates beside it.

FUM of 2025, one visit a member, of ten visits four followed up within 7 days and six within 30. All are in county 19
but the last 30 of Sierra Vista's, who live in county 37:

    stay     120 members  in Sierra Vista all year: their visits are the plan's
    leave     20 members  visit in March while in Sierra Vista, in Golden Poppy from July: Sierra Vista's visits
    come      30 members  visit in March while in Golden Poppy, in Sierra Vista from July: not Sierra Vista's visits
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import nbformat
import pytest
import tiny_release
import yaml

from workbench.schema import value_sets
from workbench.settings import PROJECT, Settings, settings

SIERRA, GOLDEN = "sierra-vista", "golden-poppy"
GROUPS = {"stay": 120, "leave": 20, "come": 30}
VISITS = GROUPS["stay"] + GROUPS["leave"]
MET_7D, MET_30D = VISITS * 4 // 10, VISITS * 6 // 10
MOVE = date(2025, 7, 1)


def tables() -> dict[str, Any]:
    """The rows of the release."""
    names = (
        "member",
        "eligibility",
        "attribution",
        "member_month",
        "medical_claim",
        "medical_claim_line",
        "diagnosis",
    )
    rows: dict[str, Any] = {name: [] for name in (*names, "measure_event")}
    rows["value_set"] = value_sets.rows()
    rows["organisation"] = [
        {"organisation_id": p, "name": p.title(), "kind": "mcp"} for p in (SIERRA, GOLDEN)
    ]
    number = 0
    for group, size in GROUPS.items():
        for place in range(size):
            _member(rows, number, place, group)
            number += 1
    return rows


def _member(rows: dict[str, Any], number: int, place: int, group: str) -> None:
    member, county = f"{number:08d}A", "37" if group == "stay" and place >= 90 else "19"
    race = ("white", "hispanic")[number % 2] if number % 30 else "asian"
    rows["member"].append(
        {
            "member_id": member,
            "last_name": "Canary",
            "birth_date": date(1980, 1, 5),
            "sex": "F",
            "race": race,
            "county_code": county,
        }
    )
    before, after = {"stay": (SIERRA, SIERRA), "leave": (SIERRA, GOLDEN), "come": (GOLDEN, SIERRA)}[group]
    spans = [(before, date(2024, 1, 1), MOVE - timedelta(days=1)), (after, MOVE, None)]
    for plan, start, end in [(before, date(2024, 1, 1), None)] if before == after else spans:
        span = {"member_id": member, "organisation_id": plan, "start_date": start}
        rows["attribution"].append({**span, "relation": "mcp", "end_date": end})
        covered = {"end_date": end or date(2026, 1, 31), "county_code": county, "medical": True}
        rows["eligibility"].append({**span, **covered})
    for month in range(1, 13):
        first = date(2025, month, 1)
        plan = before if first < MOVE else after
        rows["member_month"].append(
            {"member_id": member, "organisation_id": plan, "county_code": county, "month": first, "age": 45}
        )
    day = date(2025, 3, 1) + timedelta(days=place % 20 if group != "stay" else place % 200)
    _claim(rows, member, day, before, "23", "99284")
    if place % 10 < 6:
        _claim(rows, member, day + timedelta(days=3 if place % 10 < 4 else 20), before, "11", "99214")
    event = {
        "measure": "FUM",
        "measure_year": 2025,
        "event_id": f"C{member}{day:%m%d}",
        "member_id": member,
        "event_date": day,
        "organisation_id": before,
        "county_code": county,
        "age": 45,
    }
    for basis in ("all", "without_part2"):
        for numerator, met in (("7d", place % 10 < 4), ("30d", place % 10 < 6)):
            rows["measure_event"].append({**event, "basis": basis, "numerator": numerator, "met": met})


def _claim(rows: dict[str, Any], member: str, day: date, plan: str, place: str, procedure: str) -> None:
    base = {"claim_id": f"C{member}{day:%m%d}", "member_id": member, "from_date": day}
    header = {**base, "through_date": day, "version": 1, "organisation_id": plan, "claim_status": "paid"}
    rows["medical_claim"].append(header)
    line = {
        "line_number": 1,
        "place_of_service": place,
        "procedure_code": procedure,
        "paid_amount": Decimal("12.50"),
    }
    rows["medical_claim_line"].append({**base, **line})
    principal = {"role": "principal", "position": 1, "code_system": "ICD-10-CM", "code": "F329"}
    rows["diagnosis"].append({**base, **principal})


@dataclass(frozen=True)
class World:
    """A lake, a state, grants and a users' file that a test may change, and a catalogue of its own."""

    folder: Path
    where: Settings

    def report(self, name: str, source: str, **changes: Any) -> None:
        """A report of the catalogue whose template is one cell of Python below a parameters cell."""
        raw: dict[str, Any] = {
            "name": name,
            "title": f"Report {name}",
            "about": "made for a test",
            "template": f"{name}.ipynb",
            "organisations": "mcp",
            "parameters": {
                "year": {
                    "type": "integer",
                    "minimum": 2023,
                    "maximum": 2025,
                    "default": 2025,
                    "about": "year",
                }
            },
            "grant": "plan-quality-{org}",
            "purpose": "operations",
            "audience": "The testers.",
            "owners": {SIERRA: "ana"},
        }
        (self.where.reports / f"{name}.yaml").write_text(yaml.safe_dump(raw | changes), encoding="utf-8")
        cells = [
            nbformat.v4.new_markdown_cell("# The only section"),
            nbformat.v4.new_code_cell(
                "organisation: str = ''\nyear: int = 0\nrun: dict = {}", metadata={"tags": ["parameters"]}
            ),
            nbformat.v4.new_code_cell(source),
        ]
        templates = self.folder / "notebooks" / "templates"
        metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
        notebook = nbformat.v4.new_notebook(cells=cells, metadata=metadata)
        (templates / f"{name}.ipynb").write_text(nbformat.writes(notebook), encoding="utf-8")

    def grant(self, **changes: Any) -> None:
        """Rewrites the service grant of the plans' reports."""
        file = self.where.grants / "plan-quality.yaml"
        raw = yaml.safe_load((PROJECT / "grants" / "plan-quality.yaml").read_text(encoding="utf-8"))
        file.write_text(yaml.safe_dump(raw | changes), encoding="utf-8")

    def users(self, users: Mapping[str, list[str]]) -> None:
        """Rewrites who belongs to which groups."""
        raw = {"users": {name: {"groups": groups} for name, groups in users.items()}}
        (self.folder / "users.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")

    def said(self, output: Any) -> str:
        """What the cells of a stored notebook printed or showed."""
        notebook = json.loads((output.folder / "report.ipynb").read_text(encoding="utf-8"))
        outputs = [o for cell in notebook["cells"] for o in cell.get("outputs", [])]
        return "".join("".join(o.get("text", "")) + str(o.get("data", "")) for o in outputs)


def make(monkeypatch: pytest.MonkeyPatch) -> World:
    """A world in a folder with a short path; the environment's settings point to it."""
    folder = Path(tempfile.mkdtemp(prefix="wbr"))
    folder.chmod(0o755)
    for name in ("reports", "notebooks/templates", "grants", "lake"):
        (folder / name).mkdir(parents=True)
    for file in ("organisations.yaml", "plan-quality.yaml"):
        (folder / "grants" / file).write_text((PROJECT / "grants" / file).read_text(encoding="utf-8"))
    for name in ("LAKE", "STATE", "RUN", "GRANTS", "REPORTS"):
        monkeypatch.setenv(f"WORKBENCH_{name}", str(folder / name.lower()))
    monkeypatch.setenv("WORKBENCH_USERS", str(folder / "users.yaml"))
    monkeypatch.delenv("WORKBENCH_DATABASE_URL", raising=False)
    monkeypatch.delenv("JUPYTERHUB_API_URL", raising=False)
    tiny_release.write(folder / "lake", tables())
    world = World(folder, settings())
    world.users({"ana": ["mcp-sierra-vista"], "rui": ["research-valley"]})
    return world

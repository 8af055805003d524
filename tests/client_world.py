"""A broker that really runs, over a lake of 400 invented members, for the tests of what users hold in their hands.

Every second member is Sierra Vista's, the others Golden Poppy's. Emergency visits for mental illness in 2025, one a
member, with those that were followed up:

    county        members   visits   within 7 days   within 30 days
    19 L.A.           200       60              24               36
    37 San Diego      100       40              16               24
    30 Orange          95       30              12               18
    02 Alpine           5        3               3                3
"""

from __future__ import annotations

import hashlib
import http.client
import json
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import tiny_release

from workbench.broker.hub import LocalDirectory
from workbench.broker.service import Service, running
from workbench.schema import value_sets
from workbench.settings import PROJECT, Settings

COUNTIES = [("19", 200, 60), ("37", 100, 40), ("30", 95, 30), ("02", 5, 3)]
PLANS = ("sierra-vista", "golden-poppy")
VISIT = date(2025, 3, 1)
ANA, RUI_SH, RUI_LDS, PAT = "demo-analyst", "demo-research-sh", "demo-research-lds", "demo-public"
WHO = {
    ANA: ("ana", "operations", "server"),
    RUI_SH: ("rui", "research", "server"),
    RUI_LDS: ("rui", "research", "server"),
    PAT: ("pat", "program_administration", "app"),
}


def tables() -> dict[str, Any]:
    """The rows of the world's release."""
    rows: dict[str, Any] = {name: [] for name in ("member", "eligibility", "attribution", "member_month")}
    rows |= {name: [] for name in ("medical_claim", "medical_claim_line", "diagnosis", "measure_event")}
    rows["value_set"] = value_sets.rows()
    names = {"sierra-vista": "Sierra Vista Health Plan", "golden-poppy": "Golden Poppy Community Plan"}
    rows["organisation"] = [{"organisation_id": p, "name": names[p], "kind": "mcp"} for p in PLANS]
    number = 0
    for county, members, visits in COUNTIES:
        for place in range(members):
            _member(rows, number, county)
            if place < visits:
                _visit(rows, number, county, met_7d=place % 10 < 4, met_30d=place % 10 < 6)
            number += 1
    return rows


def _member(rows: dict[str, Any], number: int, county: str) -> None:
    member, plan = f"{number:08d}A", PLANS[number % 2]
    born = date(1960 + number % 40, 1 + number % 12, 5)
    rows["member"].append(
        {
            "member_id": member,
            "last_name": "Canary",
            "birth_date": born,
            "sex": "FM"[number % 2],
            "race": ("white", "hispanic", "asian")[number % 3],
            "zip": "90012",
            "state": "CA",
            "county_code": county,
        }
    )
    span = {"member_id": member, "organisation_id": plan, "start_date": date(2024, 1, 1)}
    rows["eligibility"].append(
        {**span, "end_date": date(2026, 1, 31), "county_code": county, "medical": True}
    )
    rows["attribution"].append({**span, "relation": "mcp", "end_date": None})
    rows["attribution"].append(
        {**span, "organisation_id": f"county-{county}", "relation": "county", "end_date": None}
    )
    for month in range(1, 13):
        when = {"month": date(2025, month, 1), "age": 2025 - born.year}
        rows["member_month"].append(
            {"member_id": member, "organisation_id": plan, "county_code": county, **when}
        )


def _visit(rows: dict[str, Any], number: int, county: str, *, met_7d: bool, met_30d: bool) -> None:
    day = VISIT + timedelta(days=number % 200)
    event = _claim(rows, number, day, place="23", procedure="99284")
    if met_30d:
        _claim(rows, number, day + timedelta(days=3 if met_7d else 20), place="11", procedure="99214")
    for basis in ("all", "without_part2"):
        for numerator, met in (("7d", met_7d), ("30d", met_30d)):
            rows["measure_event"].append(
                {
                    "measure": "FUM",
                    "measure_year": 2025,
                    "basis": basis,
                    "event_id": event,
                    "member_id": f"{number:08d}A",
                    "event_date": day,
                    "organisation_id": PLANS[number % 2],
                    "county_code": county,
                    "age": 2025 - 1960 - number % 40,
                    "numerator": numerator,
                    "met": met,
                }
            )


def _claim(rows: dict[str, Any], number: int, day: date, *, place: str, procedure: str) -> str:
    claim = f"C{number:06d}{day:%m%d}"
    base = {"claim_id": claim, "member_id": f"{number:08d}A", "from_date": day}
    header = {**base, "through_date": day, "version": 1, "organisation_id": PLANS[number % 2]}
    rows["medical_claim"].append({**header, "claim_status": "paid"})
    rows["medical_claim_line"].append(
        {
            **base,
            "line_number": 1,
            "place_of_service": place,
            "procedure_code": procedure,
            "paid_amount": Decimal("12.50"),
        }
    )
    principal = {"role": "principal", "position": 1, "code_system": "ICD-10-CM", "code": "F329"}
    rows["diagnosis"].append({**base, **principal})
    return claim


@dataclass(frozen=True)
class Seat:
    """Where one grant's server reaches its broker."""

    socket: Path
    token: str

    @property
    def environment(self) -> dict[str, str]:
        """What the spawner would put into the sandbox."""
        return {"WORKBENCH_BROKER": str(self.socket), "WORKBENCH_TOKEN": self.token}


@dataclass(frozen=True)
class World:
    """A running broker."""

    where: Settings
    service: Service
    seats: dict[str, Seat] = field(default_factory=dict)

    def seat(self, grant: str) -> Seat:
        """The binding of the demo user of a grant, always the same: a second one would end the first."""
        if grant not in self.seats:
            self.seats[grant] = self._bound(grant)
        return self.seats[grant]

    def _bound(self, grant: str) -> Seat:
        user, purpose, kind = WHO[grant]
        token = f"token-of-{grant}"
        body = {
            "server": f"{user}/{grant}",
            "user": user,
            "grant": grant,
            "purpose": purpose,
            "kind": kind,
            "token_sha256": hashlib.sha256(token.encode()).hexdigest() if kind == "server" else None,
            "expires_in": 3600,
        }
        answer = _control(self.where.run / "control" / "control.sock", body)
        return Seat(Path(answer["socket_dir"]) / "broker.sock", answer["token"] or token)


@contextmanager
def world() -> Iterator[World]:
    """The lake, built, and a broker over it, in a folder with a short path."""
    folder = Path(tempfile.mkdtemp(prefix="wbc"))
    folder.chmod(0o755)
    where = Settings(
        lake=folder / "lake",
        state=folder / "state",
        run=folder / "run",
        grants=PROJECT / "grants",
        reports=PROJECT / "reports",
        database_url=f"sqlite:///{folder / 'broker.sqlite'}",
    )
    try:
        tiny_release.write(where.lake, tables())
        with running(where, LocalDirectory(PROJECT / "hub_config" / "demo_users.yaml")) as service:
            yield World(where, service)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _control(path: Path, body: dict[str, Any]) -> dict[str, Any]:
    connection = http.client.HTTPConnection("control")
    connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.sock.connect(str(path))
    try:
        connection.request("POST", "/bindings", json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        answer: dict[str, Any] = json.loads(response.read())
        assert response.status == 201, answer
        return answer
    finally:
        connection.close()

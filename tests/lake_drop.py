"""A hand-made native drop: a few members and claims as APCD-CDL files, so that a test says only what it is about."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

from workbench.lake.apcd_layout import ELEMENTS, column_row, header, trailer

Record = Mapping[str, str]
CREATED = date(2026, 1, 31)


def month(
    member: str = "00000001A", when: str = "2025-01", plan: str = "sierra-vista", **more: str
) -> Record:
    """An eligibility record. `more` sets elements by number: _018='F'."""
    year, number = when.split("-")
    return _record("ME", {"003": plan, "005": year, "006": number, "009": "M1", "018": "F", "019": "19900215",
        "020": "Doe", "021": "Ann", "026": "93210", "028": "2106-3", "036": "Y", "037": "Y", "039": "Y",
        "061": member}, more, county="54")  # fmt: skip


def year(member: str = "00000001A", of: int = 2025, **more: str) -> list[Record]:
    """Twelve eligibility records."""
    return [month(member, f"{of}-{number:02d}", **more) for number in range(1, 13)]


def line(claim: str = "C1", day: str = "20250310", member: str = "00000001A", **more: str) -> Record:
    """A medical claim line: an office visit, paid."""
    return _record("MC", {"001": "sierra-vista", "003": "sierra-vista", "005": claim, "006": "1", "007": "1",
        "033": "11", "036": "0", "037": "I10", "088": "99213", "119": day, "120": day, "121": "1",
        "123": "100.00", "125": "80.00", "131": "90.00", "157": "01", "161": member}, more)  # fmt: skip


def fill(claim: str = "P1", day: str = "20250310", member: str = "00000001A", **more: str) -> Record:
    """A pharmacy claim line, paid."""
    return _record("PC", {"001": "dhcs", "003": "sierra-vista", "005": claim, "006": "1", "007": "1", "023": day,
        "025": "99999000101", "032": "30", "033": "30", "036": "20.00", "037": "10.00", "038": "12.00",
        "065": "01", "068": member}, more)  # fmt: skip


def _record(kind: str, fields: Mapping[str, str], more: Mapping[str, str], county: str = "") -> Record:
    elements = {f"CDL{kind}{number}": value for number, value in fields.items()}
    elements |= {
        f"CDL{kind}{number.lstrip('_')}": value for number, value in more.items() if number[0] == "_"
    }
    if county:
        elements["CALME001"] = more.get("county", county)
    return {**elements, f"CDL{kind}899": kind}


@dataclass
class Drop:
    """Files to be: file name -> records, and small CSV files as text."""

    folder: Path
    files: dict[str, Iterable[Record]] = field(default_factory=dict)
    small: dict[str, str] = field(default_factory=dict)

    def write(self) -> Path:
        """Writes everything; gives the folder."""
        self.folder.mkdir(exist_ok=True)
        for name, records in self.files.items():
            self.text(name, rows(name[:2], records))
        for name, text in self.small.items():
            (self.folder / name).write_text(text, encoding="utf-8")
        (self.folder / "sources.json").write_text(json.dumps({"synthetic": True}), encoding="utf-8")
        return self.folder

    def text(self, name: str, lines: list[str], *, columns: str = "", records: int | None = None) -> Path:
        """Writes one APCD file from finished lines."""
        kind = name[:2]
        count = len(lines) if records is None else records
        head = header(kind, "sierra-vista", "Plan", date(2025, 1, 1), date(2025, 12, 31))
        tail = trailer(kind, "sierra-vista", "Plan", CREATED, count)
        path = self.folder / name
        path.write_text("\n".join([head, columns or column_row(kind), *lines, tail]) + "\n", encoding="utf-8")
        return path


def rows(kind: str, records: Iterable[Record]) -> list[str]:
    """Records as lines, in the layout's order of columns."""
    return ["|".join(record.get(element, "") for element in ELEMENTS[kind]) for record in records]

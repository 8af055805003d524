"""Reads one APCD-CDL file: envelope (HD, column names, TR), then records by element name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from workbench.lake.apcd_layout import DELIMITER, ELEMENTS, HEADER, HEADER_FIELDS, TRAILER, TRAILER_FIELDS
from workbench.lake.layouts import SourceFile, SourceRefused, apcd_elements
from workbench.lake.layouts.delimited import Delimited, Refused
from workbench.lake.layouts.files import BLOCK

if TYPE_CHECKING:
    from workbench.lake.layouts.stage import Stage

_ELEMENT_ID = re.compile(r"[A-Z]{2,6}\d{3}")
_LONGEST_LINE = 1 << 16


@dataclass(frozen=True)
class Envelope:
    """What the first two lines and the last one of a file say."""

    columns: tuple[str, ...]
    records: int
    created: date | None


def read_envelope(file: SourceFile) -> Envelope:
    """Checks header, column names and trailer. Raises SourceRefused, naming the file and what is wrong."""
    first, second, last, count = _ends(file.path)
    header, trailer = first.split(DELIMITER), last.split(DELIMITER)
    if header[0] != HEADER or len(header) < len(HEADER_FIELDS) - 1:
        raise _refused(
            file, "does not begin with an HD record", "Send the file complete, uncompressed and in UTF-8."
        )
    if header[HEADER_FIELDS.index("type")] != file.kind:
        raise _refused(file, f"is named {file.kind}, but its HD record names another type", "Rename it.")
    _check_columns(file, second.split(DELIMITER))
    if trailer[0] != TRAILER or len(trailer) < len(TRAILER_FIELDS):
        raise _refused(file, "does not end with a TR record: it may be cut off", "Send it again, complete.")
    stated = trailer[TRAILER_FIELDS.index("record_count")].strip()
    records = count - 3
    if not stated.isdecimal() or int(stated) != records:
        said = stated if stated.isdecimal() and len(stated) < 12 else "no number of"
        raise _refused(file, f"has {records} records, its TR record says {said}", "Send it again, complete.")
    created = trailer[TRAILER_FIELDS.index("created")].strip()
    return Envelope(tuple(second.split(DELIMITER)), records, _day(created))


def read_apcd(file: SourceFile, number: int, stage: Stage) -> None:
    """Reads the records into the stage; those with a reason go to set_aside."""
    envelope = read_envelope(file)
    elements = apcd_elements.READ[file.kind]
    con = stage.con
    reader = Delimited(envelope.columns, elements.elements(), DELIMITER)
    refused: Refused = []
    con.register("apcd_rows", reader.rows(file.path, 2, 2 + envelope.records, refused))
    try:
        con.execute(
            f"""CREATE OR REPLACE TEMP TABLE parsed AS
            WITH typed AS (SELECT {number}::SMALLINT AS source_file, source_row,
              {_select(elements.columns, elements.raw)} FROM apcd_rows)
            SELECT * {_leave_out(elements.raw)}, CASE {_problems(elements, envelope.created)} END AS reason
            FROM typed"""
        )
        stage.set_aside("SELECT source_file, source_row, reason FROM parsed WHERE reason IS NOT NULL")
        _set_aside(stage, number, refused)
        for table, select in elements.into.items():
            stage.insert(table, select)
        stage.count(number, envelope.records)
    finally:
        con.unregister("apcd_rows")
        con.execute("DROP TABLE IF EXISTS parsed")


def _set_aside(stage: Stage, number: int, refused: Refused) -> None:
    if not refused:
        return
    rows, reasons = zip(*refused, strict=True)
    stage.con.register("apcd_refused", pa.table({"source_row": rows, "reason": reasons}))
    stage.set_aside(f"SELECT {number} AS source_file, source_row, reason FROM apcd_refused")
    stage.con.unregister("apcd_refused")


def _select(columns: Mapping[str, str], raw: Mapping[str, str]) -> str:
    return ", ".join(
        [f"{sql} AS {name}" for name, sql in columns.items()]
        + [f"{element} AS raw_{name}" for name, element in raw.items()]
    )


def _leave_out(raw: Mapping[str, str]) -> str:
    return f"EXCLUDE ({', '.join(f'raw_{name}' for name in raw)})" if raw else ""


def _problems(elements: apcd_elements.FileElements, created: date | None) -> str:
    """One WHEN per rule, in the order in which a row is judged."""
    whens = [f"WHEN {name} IS NULL THEN '{reason}'" for name, reason in elements.needed.items()]
    for names, reason in ((elements.dates, "bad date"), (elements.numbers, "bad number")):
        for name in names:
            whens.append(f"WHEN wb_text(raw_{name}) IS NOT NULL AND {name} IS NULL THEN '{reason}'")
    if created is not None and elements.past:
        later = " OR ".join(f"{name} > DATE '{created}'" for name in elements.past)
        whens.append(f"WHEN {later} THEN 'date after the file was made'")
    whens += [f"WHEN {condition} THEN '{reason}'" for condition, reason in elements.rules]
    return "\n".join(whens)


def _check_columns(file: SourceFile, found: list[str]) -> None:
    expected = ELEMENTS[file.kind]
    missing = [name for name in expected if name not in found]
    unknown = [name for name in found if name not in expected]
    if not missing and not unknown and len(found) == len(set(found)):
        return
    named = [name for name in unknown if _ELEMENT_ID.fullmatch(name)]
    parts = []
    if missing:
        parts.append(f"lacks {_some(missing)}")
    if named:
        parts.append(f"has the unknown {_some(named)}")
    if len(unknown) > len(named):
        parts.append(f"has {len(unknown) - len(named)} that are no element ids")
    if not parts:
        parts.append("names a column twice")
    raise _refused(
        file,
        f"has a row of column names that {' and '.join(parts)}",
        f"The layout of {file.kind} has {len(expected)} columns, {expected[0]} to {expected[-1]}.",
    )


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _refused(file: SourceFile, what: str, hint: str) -> SourceRefused:
    return SourceRefused(f"{file.name} {what}.", hint=hint)


def _day(text: str) -> date | None:
    try:
        return datetime.strptime(text, "%Y%m%d").date()
    except ValueError:
        return None


def _ends(path: Path) -> tuple[str, str, str, int]:
    """First, second and last line (cut at 64 KiB each), and the number of lines without blank ones at the end."""
    with path.open("rb") as handle:
        first = handle.readline(_LONGEST_LINE)
        second = handle.readline(_LONGEST_LINE)
        handle.seek(0)
        count, ends_with_newline = 0, True
        while block := handle.read(BLOCK):
            count += block.count(b"\n")
            ends_with_newline = block.endswith(b"\n")
        count += not ends_with_newline
        handle.seek(max(0, handle.tell() - _LONGEST_LINE))
        tail = handle.read().decode("utf-8", "replace")
    stripped = tail.rstrip("\r\n")
    blank = tail[len(stripped) :].count("\n") - 1
    last = stripped.rpartition("\n")[2]
    decode = (line.decode("utf-8", "replace").rstrip("\r\n") for line in (first, second))
    return next(decode), next(decode), last.rstrip("\r"), count - max(blank, 0)

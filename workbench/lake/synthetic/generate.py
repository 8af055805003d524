"""Writes the drop folder block by block."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from workbench.errors import WorkbenchError
from workbench.lake.synthetic import world
from workbench.lake.synthetic.behavioral import behavioral
from workbench.lake.synthetic.billing import SUBMITTERS, Sent, medical, pharmacy
from workbench.lake.synthetic.care import everyday
from workbench.lake.synthetic.drop import MARK, ApcdFiles, CsvFile, drop_folder
from workbench.lake.synthetic.enrolment import eligibility, organisations, panel, sume
from workbench.lake.synthetic.events import Fills, Visits
from workbench.lake.synthetic.notes import frame, notes
from workbench.lake.synthetic.people import CIN_RANGE, COUNTY_COUNT, county_tables, people
from workbench.lake.synthetic.providers import Providers, provider_records, providers
from workbench.lake.synthetic.sensitive import sensitive

BLOCK = 10_000
"""Members made at a time: bounds the memory."""
GENERATOR = "workbench synth"

Progress = Callable[[int, int], None]


class SynthRefused(WorkbenchError):
    """A number of members or a seed that cannot be used."""

    code = "synth-refused"


@dataclass(frozen=True)
class Summary:
    """What was written. `medical` and `pharmacy` count claims, lines, versions and broken records by sort."""

    members: int
    seed: int
    seconds: float
    files: int
    bytes: int
    enrolled: int
    eligibility_records: int
    eligibility_broken: dict[str, int]
    medical: dict[str, int]
    pharmacy: dict[str, int]
    notes: int
    notes_with_claim: int

    def as_json(self) -> dict[str, object]:
        """The summary for machines."""
        return asdict(self)


@dataclass
class _Counts:
    enrolled: int = 0
    eligibility: int = 0
    broken: int = 0
    notes: int = 0
    linked: int = 0


def write(out: Path, members: int, seed: int, progress: Progress = lambda done, total: None) -> Summary:
    """Writes the drop folder `out`: native sources of `members` members, service dates 2023 to 2025.

    Raises SynthRefused for numbers out of range and DropRefused where `out` holds other files; what was there stays
    as it is until the new drop is complete.
    """
    if not 1 <= members <= CIN_RANGE:
        raise SynthRefused("The number of members is out of range.", hint=f"Choose 1 to {CIN_RANGE:,}.")
    if not 0 <= seed < 1 << 63:
        raise SynthRefused("The seed is out of range.", hint="Choose a whole number from 0.")
    began = time.monotonic()
    with drop_folder(out) as folder:
        state_rng = np.random.default_rng([seed, 0])
        known = providers(state_rng)
        county_effect = state_rng.normal(0, world.FOLLOW_UP_COUNTY_SD, COUNTY_COUNT)
        county_effect -= county_effect @ county_tables().share
        _write_registry(folder, known)
        counts, medical_counts, pharmacy_counts = _Counts(), Counter[str](), Counter[str]()
        with (
            ApcdFiles(folder, "ME") as eligibility_files,
            ApcdFiles(folder, "MC") as medical_files,
            ApcdFiles(folder, "PC") as pharmacy_files,
        ):
            progress(0, members)
            for block, first in enumerate(range(0, members, BLOCK)):
                size = min(BLOCK, members - first)
                rng = np.random.default_rng([seed, 1, block])
                one = people(rng, first, size)
                records, plan, year, enrolled, broken = eligibility(rng, one)
                eligibility_files.add(records, tuple(world.PLANS), plan, year)
                visits, fills = Visits(), Fills()
                everyday(rng, one, visits, fills)
                mind = behavioral(rng, one, visits, fills, county_effect)
                sensitive(rng, one, visits, fills)
                sent = medical(rng, block, one, known, visits.finish())
                _add(medical_files, sent, medical_counts)
                _add(pharmacy_files, pharmacy(rng, block, one, known, fills.finish()), pharmacy_counts)
                rows, linked = notes(rng, block, one, mind, sent)
                CsvFile(folder / "care_notes.csv").add(frame(rows))
                CsvFile(folder / "SUME.csv").add(sume(one))
                CsvFile(folder / "panel.csv").add(panel(rng, one))
                counts.enrolled += enrolled
                counts.eligibility += len(records)
                counts.broken += broken
                counts.notes += len(rows)
                counts.linked += linked
                progress(first + size, members)
        _write_mark(folder, members, seed)
        files = [path for path in folder.iterdir() if path.is_file()]
        size_in_bytes = sum(path.stat().st_size for path in files)
    return Summary(
        members=members,
        seed=seed,
        seconds=round(time.monotonic() - began, 2),
        files=len(files),
        bytes=size_in_bytes,
        enrolled=counts.enrolled,
        eligibility_records=counts.eligibility,
        eligibility_broken={"bad date": counts.broken, "short row": counts.broken},
        medical=dict(medical_counts),
        pharmacy=dict(pharmacy_counts),
        notes=counts.notes,
        notes_with_claim=counts.linked,
    )


def _add(files: ApcdFiles, sent: Sent, counts: Counter[str]) -> None:
    files.add(sent.record, SUBMITTERS, sent.submitter, sent.year)
    counts.update(sent.counts)


def _write_registry(folder: Path, known: Providers) -> None:
    CsvFile(folder / "organisations.csv").add(organisations())
    CsvFile(folder / "providers.csv").add(known.table)
    with ApcdFiles(folder, "PV") as files:
        records = provider_records(known)
        files.add(
            records,
            (world.STATE,),
            np.zeros(len(records), np.int64),
            np.full(len(records), len(world.YEARS) - 1),
        )


def _write_mark(folder: Path, members: int, seed: int) -> None:
    mark = {
        "synthetic": True,
        "generator": GENERATOR,
        "seed": seed,
        "members": members,
        "first_service_date": world.FIRST_DAY.isoformat(),
        "last_service_date": world.LAST_DAY.isoformat(),
        "as_of": world.AS_OF.isoformat(),
    }
    (folder / MARK).write_text(json.dumps(mark, indent=2) + "\n", encoding="utf-8")

"""Attribution over time as a truth table: overlaps, gaps, retroactive changes, two organisations at once."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import tiny_release
from slice_world import column, grant

from workbench.broker.slices import ensure
from workbench.broker.state import State
from workbench.broker.vault import Vault

MONTHS = [date(2025, month, 15) for month in range(1, 13)]
"""Everybody has one claim in the middle of each month of 2025."""

# Spans of attribution, by plan: A is the grant's own, B another; "03-07" is March through July, "03-" lasts.
# current: seen at all on the as-of date, 31 December? date: seen on 15 June? own: which months under ever_own_period.
TRUTH = """
case                          | A             | B             | current | date | own
always                        | 01-           |               | yes     | yes  | 01-12
never                         |               | 01-           | no      | no   | -
left                          | 01-05         | 06-           | no      | no   | 01-05
joined                        | 07-           | 01-06         | yes     | no   | 07-12
overlap of own spans          | 01-07 04-     |               | yes     | yes  | 01-12
own spans that touch          | 01-06 07-     |               | yes     | yes  | 01-12
gap                           | 01-03 09-     |               | yes     | no   | 01-03 09-12
gap, then another plan        | 01-03 05-07   | 08-           | no      | yes  | 01-03 05-07
two organisations at once     | 01-           | 01-           | yes     | yes  | 01-12
two, one of them for a while  | 01-           | 04-08         | yes     | yes  | 01-12
two, own for a while          | 04-08         | 01-           | no      | yes  | 04-08
same span told twice          | 03-09 03-09   |               | no      | yes  | 03-09
ends before it begins         | 09-03         | 01-           | no      | no   | -
"""
ROWS = [[cell.strip() for cell in line.split("|")] for line in TRUTH.strip().splitlines()[1:]]
IDS = {row[0]: f"{number:08d}A" for number, row in enumerate(ROWS)}


def spans(member: str, cells: tuple[str, str]) -> list[dict[str, Any]]:
    found = []
    for plan, cell in zip(("plan-a", "plan-b"), cells, strict=True):
        for number, span in enumerate(cell.split()):
            first, _, last = span.partition("-")
            end = None if not last else date(2025, int(last), 28)
            if last and int(last) < 12 and int(last) >= int(first):
                end = date.fromordinal(date(2025, int(last) + 1, 1).toordinal() - 1)
            start = date(2025, int(first), 1 if number == 0 or cell.split()[0] != span else 2)
            found.append(
                {
                    "member_id": member,
                    "organisation_id": plan,
                    "relation": "mcp",
                    "start_date": start,
                    "end_date": end,
                }
            )
    return found


def months(text: str) -> set[int]:
    if text == "-":
        return set()
    pairs = (span.split("-") for span in text.split())
    return {month for first, last in pairs for month in range(int(first), int(last) + 1)}


def world(cells: dict[str, tuple[str, str]]) -> dict[str, Any]:
    rows: dict[str, Any] = {"member": [], "attribution": [], "medical_claim": []}
    for case, both in cells.items():
        member = IDS[case]
        rows["member"].append({"member_id": member})
        rows["attribution"] += spans(member, both)
        rows["medical_claim"] += [
            {"claim_id": f"{member}-{day.month:02d}", "member_id": member, "from_date": day} for day in MONTHS
        ]
    return rows


class Lake:
    def __init__(self, folder: Path):
        self.folder = folder / "lake"
        self.state = State(f"sqlite:///{folder / 'state.sqlite'}", folder / "state")
        self.vault = Vault(self.state)

    def release(self, id: str, cells: dict[str, tuple[str, str]]) -> Any:
        return tiny_release.write(
            self.folder, world(cells), release_id=id, as_of="2025-12-31", complete_through="2025-12-31"
        )

    def seen(self, release: Any, as_of: str) -> dict[str, set[int]]:
        """Case → the months of whose claims the plan sees, for those whom it sees at all."""
        plan = grant(
            organisation={"relation": "mcp", "ids": ["plan-a"], "as_of": as_of},
            tables=["member", "medical_claim", "attribution"],
        )
        slice_ = ensure(release, plan, self.vault, self.folder)
        claims = column(slice_, "SELECT claim_id FROM medical_claim")
        members = set(column(slice_, "SELECT member_id FROM member"))
        names = {member: case for case, member in IDS.items()}
        return {names[m]: {int(c.rpartition("-")[2]) for c in claims if c.startswith(m)} for m in members}


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    found = Lake(tmp_path_factory.mktemp("attribution"))
    yield found
    found.state.close()


CELLS = {row[0]: (row[1], row[2]) for row in ROWS}
EVERY_MONTH = set(range(1, 13))


@pytest.mark.parametrize("rule", ["current", "date", "own"])
def test_each_rule_sees_whom_and_what_the_truth_table_says(lake: Lake, rule: str) -> None:
    release = lake.release(f"20251231-{'abc'[['current', 'date', 'own'].index(rule)] * 12}", CELLS)
    as_of = {"current": "current", "date": "2025-06-15", "own": "ever_own_period"}[rule]
    place = {"current": 3, "date": 4, "own": 5}[rule]
    if rule == "own":
        expected = {row[0]: months(row[place]) for row in ROWS if row[place] != "-"}
    else:
        expected = {row[0]: EVERY_MONTH for row in ROWS if row[place] == "yes"}
    assert lake.seen(release, as_of) == expected


def test_a_retroactive_change_counts_from_the_release_that_has_it_and_changes_no_earlier_slice(
    lake: Lake,
) -> None:
    """In the later release the member is told to have left in March already, and another never to have left."""
    told = {"left": ("01-05", "06-"), "joined": ("07-", "01-06")}
    retold = {"left": ("01-03", "04-"), "joined": ("01-", "")}
    before, after = lake.release("20251231-111111111111", told), lake.release("20251231-222222222222", retold)
    for as_of, first, second in (
        ("current", {"joined": EVERY_MONTH}, {"joined": EVERY_MONTH}),
        ("2025-04-15", {"left": EVERY_MONTH}, {"joined": EVERY_MONTH}),
        ("ever_own_period", {"left": months("01-05"), "joined": months("07-12")}, {"left": months("01-03"), "joined": EVERY_MONTH}),
    ):  # fmt: skip
        assert lake.seen(before, as_of) == first, as_of
        assert lake.seen(after, as_of) == second, as_of
        assert lake.seen(before, as_of) == first, as_of


def test_a_named_cohort_is_cut_as_any_organisation_is(lake: Lake) -> None:
    rows = world({"always": ("01-", ""), "left": ("01-05", "")})
    rows["attribution"].append(
        {
            "member_id": IDS["left"],
            "organisation_id": "study-1",
            "relation": "cohort",
            "start_date": date(2025, 1, 1),
        }
    )
    release = tiny_release.write(lake.folder, rows, release_id="20251231-333333333333", as_of="2025-12-31")
    cohort = grant(
        organisation={"relation": "cohort", "ids": ["study-1"]}, tables=["member", "medical_claim"]
    )
    slice_ = ensure(release, cohort, lake.vault, lake.folder)
    assert column(slice_, "SELECT member_id FROM member") == [IDS["left"]]
    assert column(slice_, "SELECT count(*) FROM medical_claim") == [12]

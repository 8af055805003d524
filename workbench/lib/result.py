"""A measure's result in a notebook: events with their evidence, rates, plot, and what the numbers are worth."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pandas as pd

from workbench.errors import WorkbenchError
from workbench.lib import plots
from workbench.lib.breakdowns import Breakdown, breakdown
from workbench.lib.fitness import Fit
from workbench.lib.measures import Measure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class UnknownNumerator(WorkbenchError):
    """A numerator that the measure does not have."""

    code = "unknown-numerator"


@dataclass(frozen=True)
class MeasureResult:
    """One measure, one year, one slice."""

    measure: Measure
    year: int
    events: pd.DataFrame
    """One row per candidate event, with denominator, met_… and the evidence; see the measure's `events`."""
    fit: Fit
    synthetic: bool
    source: str = ""
    """Grant and release, as they stand under plots."""
    plans: Mapping[str, str] = field(default_factory=dict)
    """Id -> name of the organisations of the slice; a breakdown by plan shows names where they are known."""

    @property
    def verdict(self) -> str:
        """What the numbers are worth on this slice."""
        return self.fit.verdict

    @property
    def counted(self) -> pd.DataFrame:
        """The events of the denominator."""
        return self.events[self.events["denominator"].astype(bool)]

    def rates(self, by: str | Sequence[str] = ()) -> pd.DataFrame:
        """One row per group and numerator: denominator and met (events), people (distinct members), rate (0 to 1).

        `by`: county, race, sex, age_group, month or plan, or several. Raises UnknownBreakdown.
        """
        names = [by] if isinstance(by, str) else list(by)
        ways = [breakdown(name, self.events.columns) for name in names]
        frame = self.counted.assign(**{way.name: self._labels(way) for way in ways})
        parts = [self._rate(frame, names, numerator) for numerator in self.measure.numerators]
        rates = pd.concat(parts, ignore_index=True)
        return _in_order(rates, ways)

    def plot(
        self,
        by: str | None = None,
        *,
        numerator: str | None = None,
        width: plots.Width = "wide",
    ) -> Figure:
        """Bars by group, or a line over months. For pages that others see, plot a tabulation: its small cells are hidden."""
        if numerator is not None and numerator not in self.measure.numerators:
            raise UnknownNumerator(
                f"{self.measure.name} has no numerator {numerator!r}.",
                hint=f"It has: {', '.join(self.measure.numerators)}.",
            )
        title, note = self.measure.subject, f"Measurement year {self.year}"
        if by == "month":
            wide = self.rates("month").pivot(index="month", columns="numerator", values="rate")
            months = [m for m in breakdown("month", self.events.columns).order() if m in wide.index]
            return plots.month_line(
                wide.reindex(months).reset_index(),
                series=self.measure.numerators,
                names=self.measure.numerator_titles,
                title=title,
                subtitle=f"{note}, by month of the visit",
                synthetic=self.synthetic,
                verdict=self.verdict,
                source=self.source,
                width=width,
            )
        numerators = [numerator] if numerator else list(self.measure.numerators)
        rates = self.rates(by or ())
        rates = rates[rates["numerator"].isin(numerators)]
        words = self.measure.numerator_titles
        if by is None:
            rates = rates.assign(label=[words[n][0].upper() + words[n][1:] for n in rates["numerator"]])
            subtitle, overall = note, None
        else:
            chosen = numerators[-1]
            rates = rates[rates["numerator"] == chosen].assign(label=lambda f: f[by])
            whole = self.rates()
            overall = float(whole.loc[whole["numerator"] == chosen, "rate"].iloc[0])
            title = f"{title} {words[chosen]}"
            subtitle = f"{note}, by {breakdown(by, self.events.columns).title}"
        return plots.bar_rates(
            rates,
            label="label",
            title=title,
            subtitle=subtitle,
            synthetic=self.synthetic,
            verdict=self.verdict,
            source=self.source,
            overall=overall if overall == overall else None,
            width=width,
        )

    def _labels(self, way: Breakdown) -> pd.Series:
        labels = way.labels(self.counted[way.column])
        return labels.map(lambda label: self.plans.get(label, label)) if way.name == "plan" else labels

    def _rate(self, frame: pd.DataFrame, names: list[str], numerator: str) -> pd.DataFrame:
        rows = frame.assign(
            _met=frame[f"met_{numerator}"].astype("boolean").fillna(False).astype("int64"), _all=0
        )
        groups = rows.groupby(names or ["_all"], sort=False, observed=True)
        part = groups.agg(
            denominator=("event_id", "size"), met=("_met", "sum"), people=("member_id", "nunique")
        ).reset_index()
        if not names:
            part = part.drop(columns="_all")
            if part.empty:
                part.loc[0] = {"denominator": 0, "met": 0, "people": 0}
        part.insert(len(names), "numerator", numerator)
        part["rate"] = part["met"] / part["denominator"].where(part["denominator"] > 0)
        return part

    def __repr__(self) -> str:
        rates = self.rates()
        lines = [
            f"{self.measure.numerator_titles[r['numerator']]}: {_percent(r['rate'])} "
            f"({r['met']:,} of {r['denominator']:,} visits)"
            for r in rates.to_dict("records")
        ]
        head = f"{self.measure.name} {self.year}: {self.measure.title}"
        mark = [plots.SYNTHETIC] if self.synthetic else []
        return "\n".join([*mark, head, *lines, self.verdict, *([self.source] if self.source else [])])

    def _repr_html_(self) -> str:
        rows = "".join(
            "<tr>"
            f'<td style="text-align:left">{html.escape(self.measure.numerator_titles[r["numerator"]])}</td>'
            f'<td style="font-weight:600">{_percent(r["rate"])}</td>'
            f"<td>{r['met']:,}</td><td>{r['denominator']:,}</td><td>{r['people']:,}</td>"
            "</tr>"
            for r in self.rates().to_dict("records")
        )
        badge = (
            f'<span style="background:{plots.AMBER};color:#fff;font-weight:700;font-size:11px;padding:2px 7px">'
            f"{plots.SYNTHETIC}</span><br>"
            if self.synthetic
            else ""
        )
        return (
            f'<div style="max-width:720px">{badge}'
            f"<strong>{html.escape(self.measure.title)}</strong> · {self.year}"
            '<table style="font-variant-numeric:tabular-nums;margin:8px 0"><thead><tr><th style="text-align:left">follow-up</th>'
            f"<th>rate</th><th>met</th><th>visits</th><th>people</th></tr></thead><tbody>{rows}</tbody></table>"
            f'<div style="color:{plots.FAINT};font-size:12px">{html.escape(self.verdict)}<br>{html.escape(self.source)}</div></div>'
        )


def _percent(rate: float) -> str:
    return "–" if rate != rate else f"{rate:.1%}"


def _in_order(rates: pd.DataFrame, ways: Sequence[Breakdown]) -> pd.DataFrame:
    """Groups in the order of their labels where they have one, else by alphabet; numerators as the measure lists them."""
    if not ways:
        return rates
    ordered = rates.copy()
    for way in ways:
        place = {label: at for at, label in enumerate(way.order())}
        ordered[f"_{way.name}"] = [f"{place.get(label, len(place)):04d}{label}" for label in rates[way.name]]
    keys = [f"_{way.name}" for way in ways]
    return ordered.sort_values(keys, kind="stable").drop(columns=keys).reset_index(drop=True)

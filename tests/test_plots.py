"""Plots say what they show, hide what is hidden, mark invented people, and are the same bytes each time."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pandas as pd
import pytest
from matplotlib.figure import Figure

from workbench.lib import plots

RATES = pd.DataFrame(
    {
        "race": ["White", "Asian", "Native Hawaiian or Pacific Islander"],
        "denominator": [420, 98, None],
        "met": [201, 33, None],
        "rate": [201 / 420, 33 / 98, None],
        "hidden": [False, False, True],
    }
)
MONTHS = pd.DataFrame(
    {
        "month": ["Jan", "Feb", "Mar"],
        "7d": [0.2, None, 0.3],
        "30d": [0.4, None, 0.5],
        "hidden": [False, True, False],
    }
)


def bars(**more: object) -> Figure:
    options: dict[str, object] = {
        "label": "race",
        "title": "Emergency visits with follow-up",
        "subtitle": "By race, 2025",
        "verdict": "Exact for this slice.",
        "source": "Grant g, release r",
        "synthetic": True,
        "overall": 0.42,
    }
    return plots.bar_rates(RATES, **{**options, **more})  # type: ignore[arg-type]


def line(**more: object) -> Figure:
    options: dict[str, object] = {
        "series": ["7d", "30d"],
        "names": {"7d": "within 7 days", "30d": "within 30 days"},
        "title": "Emergency visits with follow-up",
        "verdict": "Exact for this slice.",
        "source": "Grant g, release r",
        "synthetic": True,
    }
    return plots.month_line(MONTHS, **{**options, **more})  # type: ignore[arg-type]


def words(figure: Figure) -> str:
    root = ElementTree.fromstring(plots.to_svg(figure))
    return re.sub(
        r"\s+", " ", " ".join("".join(e.itertext()) for e in root.iter("{http://www.w3.org/2000/svg}text"))
    )


@pytest.mark.parametrize("figure", [bars, line], ids=["bars", "line"])
@pytest.mark.parametrize("width", ["wide", "phone"])
def test_a_plot_names_its_subject_verdict_and_source(figure: object, width: str) -> None:
    said = words(figure(width=width))  # type: ignore[operator]
    for text in ("Emergency visits", "follow-up", "Exact for this slice.", "Grant g, release r"):
        assert text in said


@pytest.mark.parametrize("figure", [bars, line], ids=["bars", "line"])
def test_invented_people_are_marked_and_real_ones_are_not(figure: object) -> None:
    assert plots.SYNTHETIC in words(figure(synthetic=True))  # type: ignore[operator]
    assert plots.SYNTHETIC not in words(figure(synthetic=False))  # type: ignore[operator]


@pytest.mark.parametrize("figure", [bars, line], ids=["bars", "line"])
def test_a_hidden_cell_is_hatched_named_and_explained(figure: object) -> None:
    drawn = figure()  # type: ignore[operator]
    said = words(drawn)
    assert plots.HIDDEN in said
    assert "1 to 10 people" in said
    assert sum(bool(patch.get_hatch()) for patch in drawn.axes[0].patches) == 1


def test_without_hidden_cells_no_note_stands() -> None:
    shown = plots.bar_rates(RATES.head(2).drop(columns="hidden"), label="race", title="T", synthetic=False)
    assert "1 to 10 people" not in words(shown)


def test_a_hidden_number_is_nowhere_in_the_picture() -> None:
    frame = RATES.assign(met=[201, 33, 7], denominator=[420, 98, 9], rate=[0.48, 0.34, 7 / 9])
    hidden = plots.bar_rates(frame, label="race", title="T", synthetic=False)
    without = plots.bar_rates(
        frame.assign(met=[201, 33, 1], rate=[0.48, 0.34, 1 / 9]), label="race", title="T", synthetic=False
    )
    assert plots.to_svg(hidden) == plots.to_svg(without)
    assert "77.8" not in words(hidden)


def test_bars_are_as_long_as_their_rates() -> None:
    bar_widths = [
        p.get_width()
        for p in bars().axes[0].patches
        if p.get_facecolor()[:3] == pytest.approx((0.0588, 0.4627, 0.4314), abs=0.01)
    ]
    assert bar_widths == pytest.approx([201 / 420, 33 / 98])


def test_counts_and_rates_are_written_out() -> None:
    assert "47.9% (201 of 420)" in words(bars())
    counts = pd.DataFrame({"county": ["Los Angeles"], "value": [9861]})
    assert "9,861" in words(
        plots.bar_rates(counts, label="county", value="value", title="Members", synthetic=False)
    )


def test_an_empty_answer_still_draws() -> None:
    empty = plots.bar_rates(RATES.head(0), label="race", title="Nothing", synthetic=True)
    assert "Nothing" in words(empty)


@pytest.mark.parametrize("figure", [bars, line], ids=["bars", "line"])
def test_svg_is_equal_bytes_without_scripts_or_outside_addresses(figure: object) -> None:
    first, second = (plots.to_svg(figure()) for _ in range(2))  # type: ignore[operator]
    assert first == second
    assert first.startswith("<svg")
    assert "<script" not in first
    outside = set(re.findall(r"https?://[^\"'\s>]+", first)) - {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    assert outside == set()


def test_series_differ_in_lightness_as_well_as_hue() -> None:
    """Neighbours stay apart in grey print and for colour-blind readers; markers differ too."""

    def luminance(colour: str) -> float:
        red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    assert len(set(plots.MARKERS[: len(plots.SERIES)])) == len(plots.SERIES)
    assert all(luminance(colour) < 0.45 for colour in plots.SERIES), "dark enough on white"


def test_the_phone_plot_is_narrow() -> None:
    assert bars(width="phone").get_figwidth() < bars().get_figwidth() / 1.8

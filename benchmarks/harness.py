"""What all benchmarks share: timing in turns, the machine's description, JSON and the table of docs/performance.md."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path

import duckdb

PROJECT = Path(__file__).resolve().parent.parent
RESULTS = PROJECT / "benchmarks" / "results"
PAGE = PROJECT / "docs" / "performance.md"
INTRODUCTION = """Each figure stands beside the alternative that it names, measured in turns in one run of `make bench`. The \
machine is shared and noisy, so read the ratios. Medians, unless a figure says otherwise.

The data are a release of 1,000,000 members and 60,000,000 claim lines, multiplied from a real synthetic one: every copy \
is a member of its own, with ids of its own and claims at other times. It is made once (about ten minutes), by \
`python -m benchmarks lake`. `BENCH_MEMBERS=20000 python -m benchmarks` runs everything small, `python -m benchmarks \
NAME` one group: queries, streams, callers, slices, lookup, hub.

"""


@dataclass
class Figure:
    """One row of the table: ours against the alternative, medians in seconds, or in what `unit` says.

    `met` is None where nothing was promised and the figure only tells.
    """

    name: str
    ours: float
    alternative: float | None
    alternative_is: str
    target: str
    ratio: float | None
    met: bool | None
    unit: str = "s"
    runs: int = 1
    note: str = ""
    samples: dict[str, list[float]] = field(default_factory=dict)


def plain_duckdb() -> duckdb.DuckDBPyConnection:
    """The alternative's engine, as it comes, but for the bar that it would draw over the output."""
    con = duckdb.connect()
    con.execute("SET enable_progress_bar = false")
    return con


def in_turns(runs: int, **tasks: Callable[[], object]) -> dict[str, list[float]]:
    """Seconds of each task, run in turns so that the machine's noise falls on all alike; one warm-up run each."""
    samples: dict[str, list[float]] = {name: [] for name in tasks}
    for turn in range(runs + 1):
        for name, task in tasks.items():
            start = time.perf_counter()
            task()
            if turn:
                samples[name].append(time.perf_counter() - start)
    return samples


def against(
    name: str,
    samples: dict[str, list[float]],
    alternative: str,
    most: float | None,
    note: str = "",
    seconds: float | None = None,
) -> Figure:
    """A figure whose target is a ratio of medians (`ours` ÷ `alternative`), and seconds where given; no `most`, no target."""
    ours, other = statistics.median(samples["ours"]), statistics.median(samples["alternative"])
    ratio = ours / other
    target = "told" if most is None else f"≤ {most}×" + (f" and ≤ {seconds} s" if seconds else "")
    met = None if most is None else ratio <= most and (seconds is None or ours <= seconds)
    return Figure(
        name, ours, other, alternative, target, ratio, met, "s", len(samples["ours"]), note, samples
    )


def absolute(name: str, samples: list[float], seconds: float | None, note: str = "") -> Figure:
    """A figure whose target is a number of seconds, by the median; without one it only tells."""
    ours = statistics.median(samples)
    target = "told" if seconds is None else f"≤ {_seconds(seconds)}"
    met = None if seconds is None else ours <= seconds
    return Figure(name, ours, None, "–", target, None, met, "s", len(samples), note, {"ours": samples})


def throughput(
    name: str,
    rows: int,
    samples: dict[str, list[float]],
    alternative: str,
    most: float | None,
    note: str = "",
) -> Figure:
    """A figure in rows a second; the target is how many times slower than the alternative it may be."""
    ours, other = (rows / statistics.median(samples[who]) for who in ("ours", "alternative"))
    ratio = other / ours
    target = "told" if most is None else f"≤ {most}×"
    met = None if most is None else ratio <= most
    return Figure(
        name, ours, other, alternative, target, ratio, met, "rows/s", len(samples["ours"]), note, samples
    )


def memory(name: str, peak: int, most: int | None, note: str = "") -> Figure:
    """A figure in bytes, once measured, against a bound."""
    target = "told" if most is None else f"< {_bytes(most)}"
    met = None if most is None else peak < most
    return Figure(name, peak, None, "–", target, None, met, "bytes", 1, note)


def percentile(samples: list[float], share: float) -> float:
    """The sample below which that share of the samples lies."""
    return sorted(samples)[min(len(samples) - 1, int(len(samples) * share))]


def machine() -> dict[str, str]:
    """What the figures were measured on."""
    model = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    packages = (
        "duckdb",
        "pyarrow",
        "ibis-framework",
        "sqlglot",
        "jupyterhub",
        "jupyterlab",
        "voila",
        "papermill",
    )
    return {
        "cpu": f"{os.cpu_count()} × {model}",
        "memory": f"{memory:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "versions": ", ".join(f"{name} {version(name)}" for name in packages),
        "measured": time.strftime("%Y-%m-%d"),
    }


def forget(run: str) -> None:
    """Drops the figures of earlier runs: a whole run replaces them, a part of one adds to them."""
    (RESULTS / f"{run}.json").unlink(missing_ok=True)


def write(figures: list[Figure], run: str, page: Path | None, data: str) -> None:
    """results/<run>.json, and from all figures in it the table of the page, whole or not at all."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    where = {**machine(), "data": data}
    file = RESULTS / f"{run}.json"
    known = json.loads(file.read_text())["figures"] if file.exists() else {}
    known.update({figure.name: asdict(figure) for figure in figures})
    file.write_text(json.dumps({"machine": where, "figures": known}, indent=1))
    if page is None:
        return
    rows = [Figure(**figure) for figure in known.values()]
    lines = ["# Performance\n\n", "<!-- Written by `make bench`. -->\n\n"]
    lines += [INTRODUCTION]
    lines += [f"* {key}: {value}\n" for key, value in where.items()]
    lines += [
        "\n| figure | ours | against | alternative | ratio | target | met |\n|---|--:|--:|---|--:|---|---|\n"
    ]
    lines += [_row(figure) for figure in rows]
    lines += ["\n", *(f"* {figure.name}: {figure.note}\n" for figure in rows if figure.note)]
    page.write_text("".join(lines))


def _row(figure: Figure) -> str:
    show = {"s": _seconds, "rows/s": _rows, "bytes": _bytes}[figure.unit]
    other = show(figure.alternative) if figure.alternative is not None else "–"
    ratio = f"{figure.ratio:.2f}×" if figure.ratio is not None else "–"
    met = {True: "yes", False: "**no**", None: "–"}[figure.met]
    return f"| {figure.name} | {show(figure.ours)} | {other} | {figure.alternative_is} | {ratio} | {figure.target} | {met} |\n"


def _seconds(value: float) -> str:
    return f"{value * 1000:.1f} ms" if value < 1 else f"{value:.2f} s"


def _rows(value: float) -> str:
    return f"{value / 1e6:.2f} M rows/s"


def _bytes(value: float) -> str:
    return f"{value / 2**20:,.0f} MB"


def print_table(figures: list[Figure]) -> None:
    """The same figures for the terminal."""
    from rich.console import Console
    from rich.table import Table

    table = Table("figure", "ours", "against", "ratio", "target", "met", title="Benchmarks")
    for figure in figures:
        cells = _row(figure).strip("| \n").replace("*", "").split(" | ")
        table.add_row(cells[0], cells[1], cells[2], cells[4], cells[5], cells[6])
    Console(width=140).print(table)

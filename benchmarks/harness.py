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

PROJECT = Path(__file__).resolve().parent.parent
RESULTS = PROJECT / "benchmarks" / "results"
PAGE = PROJECT / "docs" / "performance.md"


@dataclass
class Figure:
    """One row of the table: ours against the alternative, medians in seconds (or rows/s where the unit says so)."""

    name: str
    ours: float
    alternative: float | None
    alternative_is: str
    target: str
    ratio: float | None
    met: bool
    unit: str = "s"
    runs: int = 1
    note: str = ""
    samples: dict[str, list[float]] = field(default_factory=dict)


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
    most: float,
    note: str = "",
    seconds: float | None = None,
) -> Figure:
    """A figure whose target is a ratio of medians (`ours` ÷ `alternative`), and seconds where given."""
    ours, other = statistics.median(samples["ours"]), statistics.median(samples["alternative"])
    ratio = ours / other
    target = f"≤ {most}×" + (f" and ≤ {seconds} s" if seconds else "")
    met = ratio <= most and (seconds is None or ours <= seconds)
    return Figure(
        name, ours, other, alternative, target, ratio, met, "s", len(samples["ours"]), note, samples
    )


def absolute(name: str, samples: list[float], seconds: float, note: str = "") -> Figure:
    """A figure whose target is a number of seconds, by the median."""
    ours = statistics.median(samples)
    return Figure(
        name,
        ours,
        None,
        "–",
        f"≤ {_seconds(seconds)}",
        None,
        ours <= seconds,
        "s",
        len(samples),
        note,
        {"ours": samples},
    )


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


def forget() -> None:
    """Drops the figures of earlier runs: a whole run replaces them, a part of one adds to them."""
    (RESULTS / "latest.json").unlink(missing_ok=True)


def write(figures: list[Figure]) -> None:
    """results/<name>.json for each run, and the table in docs/performance.md, whole or not at all."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    where = machine()
    latest = RESULTS / "latest.json"
    known = json.loads(latest.read_text())["figures"] if latest.exists() else {}
    known.update({figure.name: asdict(figure) for figure in figures})
    latest.write_text(json.dumps({"machine": where, "figures": known}, indent=1))
    rows = [Figure(**figure) for figure in known.values()]
    lines = ["# Performance\n\n", "<!-- Written by `make bench`. -->\n\n"]
    lines += ["Medians of one run of `make bench`; the machine is shared and noisy, so read the ratios.\n\n"]
    lines += [f"* {key}: {value}\n" for key, value in where.items()]
    lines += [
        "\n| figure | ours | against | alternative | ratio | target | met |\n|---|--:|--:|---|--:|---|---|\n"
    ]
    lines += [_row(figure) for figure in rows]
    lines += ["\n", *(f"* {figure.name}: {figure.note}\n" for figure in rows if figure.note)]
    PAGE.write_text("".join(lines))


def _row(figure: Figure) -> str:
    show = _seconds if figure.unit == "s" else _rows
    other = show(figure.alternative) if figure.alternative is not None else "–"
    ratio = f"{figure.ratio:.2f}×" if figure.ratio is not None else "–"
    met = "yes" if figure.met else "**no**"
    return f"| {figure.name} | {show(figure.ours)} | {other} | {figure.alternative_is} | {ratio} | {figure.target} | {met} |\n"


def _seconds(value: float) -> str:
    return f"{value * 1000:.1f} ms" if value < 1 else f"{value:.2f} s"


def _rows(value: float) -> str:
    return f"{value / 1e6:.2f} M rows/s"


def print_table(figures: list[Figure]) -> None:
    """The same figures for the terminal."""
    from rich.console import Console
    from rich.table import Table

    table = Table("figure", "ours", "against", "ratio", "target", "met", title="Benchmarks")
    for figure in figures:
        cells = _row(figure).strip("| \n").replace("*", "").split(" | ")
        table.add_row(cells[0], cells[1], cells[2], cells[4], cells[5], cells[6])
    Console(width=140).print(table)

"""`python -m benchmarks [name …]`: runs the benchmarks, prints the table, writes JSON and docs/performance.md.

A small run (BENCH_MEMBERS) writes its JSON alone: what docs/performance.md says is of the full size.
"""

from __future__ import annotations

import importlib
import sys

from benchmarks import harness, world

ALL = ("queries", "streams", "callers", "slices", "lookup", "hub")
LAKE = "lake"


def main() -> None:
    """Runs the named groups, or all; `lake` only makes the data. Says which exist when a name is unknown."""
    names = sys.argv[1:] or list(ALL)
    if unknown := set(names) - {*ALL, LAKE}:
        sys.exit(f"unknown benchmark {', '.join(sorted(unknown))}; there are: {', '.join((LAKE, *ALL))}")
    where = world.from_environment()
    figures: list[harness.Figure] = []
    run, page = ("latest", harness.PAGE) if where.scale == 1 else (f"small-{where.members}", None)
    if set(names) >= set(ALL):
        harness.forget(run)
    for name in names:
        world.say(name)
        if name == LAKE:
            where.everything()
            continue
        figures += importlib.import_module(f"benchmarks.bench_{name}").run(where)
        harness.write(figures, run, page, where.about)
    if figures:
        harness.print_table(figures)


if __name__ == "__main__":
    main()

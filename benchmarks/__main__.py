"""`python -m benchmarks [name …]`: runs the benchmarks, prints the table, writes JSON and docs/performance.md."""

from __future__ import annotations

import importlib
import sys

from benchmarks import harness

ALL = ("broker", "slices", "hub")


def main() -> None:
    """Runs the named groups, or all; says which exist when a name is unknown."""
    names = sys.argv[1:] or list(ALL)
    if unknown := set(names) - set(ALL):
        sys.exit(f"unknown benchmark {', '.join(sorted(unknown))}; there are: {', '.join(ALL)}")
    figures: list[harness.Figure] = []
    if set(names) == set(ALL):
        harness.forget()
    for name in names:
        figures += importlib.import_module(f"benchmarks.bench_{name}").run()
        harness.write(figures)
    harness.print_table(figures)


if __name__ == "__main__":
    main()

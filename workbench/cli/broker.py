"""`workbench query`: an operator's questions go the way of everyone's."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from workbench import sandbox
from workbench.cli.plain import plain
from workbench.cli.progress import Lines
from workbench.client.show import INSECURE
from workbench.errors import WorkbenchError
from workbench.settings import Settings, settings

FIRST_ROWS = 20
"""Rows of an answer in --jsonl."""


def _without_sandbox(_context: click.Context, _option: click.Parameter, wanted: bool) -> None:
    if wanted:
        os.environ[sandbox.VARIABLE] = "1"


insecure_option = click.option(
    "--insecure-no-sandbox",
    is_flag=True,
    expose_value=False,
    callback=_without_sandbox,
    help="Run queries without bubblewrap, which every page then says. Never over people's data.",
)


@click.command(
    epilog="""\b
Examples:
  workbench query --grant demo-analyst "select sex, count(*) n from member group by 1"
  workbench query --grant demo-research-sh --as rui --json "select count(*) from diagnosis"
  workbench query --grant demo-analyst --jsonl statements.jsonl
"""
)
@click.option("--grant", required=True, help="The grant under which to ask.")
@click.option("--release", help="A release of the lake; the latest where this is missing.")
@click.option(
    "--as",
    "as_",
    metavar="USER",
    help="Ask in this user's name, with her groups and the channel notebook. The log has both names.",
)
@click.option("--purpose", help="The purpose of use; the first that the grant names where this is missing.")
@click.option("--lake", type=click.Path(path_type=Path), help="Folder of the lake [env: WORKBENCH_LAKE].")
@click.option("--json", "as_json", is_flag=True, help="Print the answer as one JSON object.")
@click.option(
    "--jsonl",
    type=click.File("r"),
    help='A file of {"id": …, "sql": …} lines; prints one JSON line for each.',
)
@click.option(
    "--rows", type=click.IntRange(min=1), default=50, show_default=True, help="Rows of the printed table."
)
@insecure_option
@click.argument("sql", required=False)
def query(
    grant: str, release: str | None, as_: str | None, purpose: str | None, lake: Path | None,
    as_json: bool, jsonl: Any, rows: int, sql: str | None,
) -> None:  # fmt: skip
    """Ask a slice in SQL, through gate, worker and audit. SQL of - is read from standard input."""
    if (sql is None) == (jsonl is None):
        raise click.UsageError("Give one SQL statement, or --jsonl FILE.")
    if sql is not None and sql != "-" and not sql.strip():
        raise click.UsageError("The SQL statement is empty.")
    address = {"grant": grant, "release": release, "as": as_, "purpose": purpose}
    with operating(lake) as broker:
        if jsonl is not None:
            for line in jsonl:
                if line.strip():
                    click.echo(_json(_answer_line(broker, line, address)))
            return
        answer = broker.query(sys.stdin.read() if sql == "-" else str(sql), address)
    if as_json:
        stamp = {
            name: getattr(answer, name)
            for name in ("query", "grant", "release", "slice", "synthetic", "notice")
        }
        click.echo(_json(stamp | _rows(answer.table, None)))
    else:
        _print(answer, rows)


def _answer_line(broker: Any, line: str, address: dict[str, Any]) -> dict[str, Any]:
    """One line of --jsonl: the answer, or why there is none."""
    answer: dict[str, Any] = {
        "id": None,
        "ok": False,
        "rows": None,
        "columns": None,
        "data": None,
        "code": None,
        "reason": None,
    }
    try:
        asked = json.loads(line)
        answer["id"] = asked.get("id")
        sql = asked["sql"]
        if not isinstance(sql, str) or answer["id"] is None:
            raise TypeError
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return answer | {"code": "bad-request", "reason": 'A line is {"id": …, "sql": "…"}.'}
    try:
        return answer | {"ok": True} | _rows(broker.query(sql, address).table, FIRST_ROWS)
    except WorkbenchError as error:
        reason = error.reason if not error.hint else f"{error.reason} {error.hint}"
        return answer | {"code": error.code, "reason": reason}


def _json(value: Any) -> str:
    """JSON as the standard has it: numbers that it lacks are the texts "Infinity", "-Infinity" and "NaN"."""
    return json.dumps(_plain(value), default=str, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def _rows(table: Any, first: int | None) -> dict[str, Any]:
    shown = table if first is None else table.slice(0, first)
    data = [list(row) for row in zip(*(column.to_pylist() for column in shown.columns), strict=True)]
    return {"rows": table.num_rows, "columns": table.column_names, "data": data}


def _print(answer: Any, rows: int) -> None:
    console = Console()
    if answer.synthetic:
        console.print("SYNTHETIC DATA", style="bold yellow")
    if sandbox.insecure():
        console.print(INSECURE, style="bold red")
    grid = Table(show_edge=False, header_style="bold")
    shown = answer.table.slice(0, rows)
    for field in shown.schema:
        right = str(field.type).startswith(("int", "uint", "double", "float", "decimal"))
        grid.add_column(plain(field.name), justify="right" if right else "left", overflow="fold")
    for row in zip(*(column.to_pylist() for column in shown.columns), strict=True):
        grid.add_row(*map(plain, row))
    console.print(grid)
    more = f", first {rows} shown" if answer.table.num_rows > rows else ""
    console.print(
        f"{answer.table.num_rows:,} row{'' if answer.table.num_rows == 1 else 's'}{more} · grant {answer.grant} · release {answer.release} · slice {answer.slice}",
        style="dim",
    )
    if answer.notice:
        console.print(answer.notice, style="dim")


def where_is(lake: Path | None) -> Settings:
    """The settings of the environment, with another lake where one is named."""
    where = settings()
    return dataclasses.replace(where, lake=lake.absolute()) if lake is not None else where


@contextmanager
def operating(lake: Path | None) -> Iterator[Any]:
    """The broker, with progress on standard error while it starts or builds a slice: a bar on a terminal, else line by line."""
    from workbench.broker.operator import operator

    console = Console(stderr=True)
    if not console.is_terminal:
        with operator(where_is(lake), Lines()) as broker:
            yield broker
        return
    bar = Progress(TextColumn("{task.description}"), BarColumn(), console=console, transient=True)
    with bar:
        tasks: list[Any] = []

        def progress(step: str, done: float) -> None:
            if not tasks:
                tasks.append(bar.add_task(step, total=1.0))
            bar.update(tasks[0], description=step, completed=done)

        with operator(where_is(lake), progress) as broker:
            yield broker

"""Runs inside the one-shot sandbox: papermill and nbconvert in one process, nothing written outside it.

`python -m workbench.reports.inside` reads a JSON job (template, parameters, title, seconds) on standard input and answers
on standard output with one JSON line, followed by the bytes of the files that the line names. Progress goes to
standard error, one JSON object a line.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from workbench.reports.store import HTML, NOTEBOOK

HOUSE = Path(__file__).resolve().parent / "house"
TEMPLATE = "template.ipynb"


def main() -> None:
    """Executes the job; exits 0 when an answer was given, be it a failure of the notebook."""
    answer = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    sys.modules["rfc3987_syntax"] = None  # type: ignore[assignment]  # optional check of jsonschema: 1.5 s to import
    job = json.load(sys.stdin)
    Path(TEMPLATE).write_text(job["template"], encoding="utf-8")
    head, files = _run(job)
    head["files"] = [[name, len(content)] for name, content in files.items()]
    answer.write(json.dumps(head).encode() + b"\n")
    for content in files.values():
        answer.write(content)
    answer.close()


def _run(job: dict[str, Any]) -> tuple[dict[str, Any], dict[str, bytes]]:
    begun = time.monotonic()
    marks: dict[str, float] = {}

    def mark(step: str) -> None:
        marks[step] = round(time.monotonic() - begun, 3)

    warm = threading.Thread(target=_import_exporter, daemon=True)
    try:
        _execute(job, mark, warm)
    except _NotebookFailed as failure:
        return {"ok": False, **failure.facts, "marks": marks}, {}
    mark("executed")
    warm.join()
    files = {NOTEBOOK: Path(NOTEBOOK).read_bytes(), HTML: _page(job["title"])}
    mark("page")
    return {"ok": True, "marks": marks}, files


class _NotebookFailed(Exception):
    def __init__(self, **facts: Any):
        self.facts = facts


def _execute(job: dict[str, Any], mark: Any, warm: threading.Thread) -> None:
    import papermill.engines
    from papermill.exceptions import PapermillExecutionError
    from papermill.execute import execute_notebook
    from traitlets.config import Config

    mark("papermill imported")
    section = ""

    class Engine(papermill.engines.NBClientEngine):  # type: ignore[misc]
        @classmethod
        def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, **kwargs: Any) -> None:
            start = nb_man.cell_start

            def cell_start(cell: Any, index: int, **more: Any) -> None:
                nonlocal section
                section = _heading(cell) or section
                if cell.cell_type == "code":
                    _say(index + 1, len(nb_man.nb.cells), section)
                if index == 0:
                    mark("first cell")
                    warm.start()
                start(cell, index, **more)

            nb_man.cell_start = cell_start
            nb_man.save = lambda *_, **__: None
            # kernel and client talk over unix sockets in the sandbox's own home
            config = Config({"KernelManager": {"transport": "ipc"}})
            super().execute_managed_notebook(nb_man, kernel_name, config=config, **kwargs)

    papermill.engines.papermill_engines.register("report", Engine)
    try:
        execute_notebook(
            TEMPLATE,
            NOTEBOOK,
            parameters=job["parameters"],
            engine_name="report",
            progress_bar=False,
            log_output=False,
            start_timeout=60,
            execution_timeout=job["seconds"],
        )
    except PapermillExecutionError as error:
        raise _NotebookFailed(**_failure(error), section=section) from None
    except Exception as error:
        raise _NotebookFailed(name=type(error).__name__, reason="", section=section) from None


def _failure(error: Any) -> dict[str, str]:
    """What may be said: the exception's name, and its words only where its family forbids data values in them."""
    name = str(error.ename)
    return {"name": name, "reason": str(error.evalue) if name in _errors_without_values() else ""}


def _errors_without_values() -> set[str]:
    import workbench.client.errors
    import workbench.lib.fitness  # noqa: F401
    from workbench.errors import WorkbenchError

    names, todo = {WorkbenchError.__name__}, [WorkbenchError]
    while todo:
        children = todo.pop().__subclasses__()
        names.update(child.__name__ for child in children)
        todo.extend(children)
    return names


def _heading(cell: Any) -> str:
    lines = str(cell.source).splitlines() if cell.cell_type == "markdown" else []
    return next((line.lstrip("# ").strip() for line in lines if line.startswith("#")), "")


def _say(cell: int, of: int, section: str) -> None:
    print(json.dumps({"cell": cell, "of": of, "section": section}), file=sys.stderr, flush=True)


def _import_exporter() -> None:
    import nbconvert.exporters.html  # noqa: F401


def _page(title: str) -> bytes:
    import nbformat
    from nbconvert.exporters.html import HTMLExporter

    exporter = HTMLExporter(
        template_name="house",
        extra_template_basedirs=[str(HOUSE.parent)],
        exclude_input=True,
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        exclude_anchor_links=True,
    )
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    page, _ = exporter.from_notebook_node(notebook, {"metadata": {"name": title}})
    return str(page).encode("utf-8")


if __name__ == "__main__":
    main()

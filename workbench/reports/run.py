"""Runs one report for one organisation: checks, binding, sandbox, stored output; and the history of it."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import IO, Any

from workbench.broker.grants import GrantBook
from workbench.client.transport import Transport
from workbench.errors import WorkbenchError
from workbench.lake.release import open_release
from workbench.reports.catalogue import Catalogue, Report, UnknownOrganisation, Value
from workbench.reports.control import Binding, Control
from workbench.reports.history import History, Status, now
from workbench.reports.people import groups_of
from workbench.reports.releases import code_version, old_release
from workbench.reports.store import HTML, NOTEBOOK, Output, Store
from workbench.sandbox import Limits, Sandbox, launch
from workbench.settings import Settings

Progress = Callable[[str], None]

BROKER_FOLDER = "/run/wb/broker"
LARGEST_OUTPUT = 64 << 20
"""Bytes that a run may hand out of its sandbox."""
BINDING_SPARE_SECONDS = 900
"""How much longer than the run its token lives: a slice may have to be built first."""


class ReportFailed(WorkbenchError):
    """The notebook did not run through. What stood before still stands."""

    code = "report-failed"
    http_status = 500


@dataclass(frozen=True)
class Order:
    """A report run that has passed every check of its own: what is to be run, for whom, by whose authority."""

    report: Report
    organisation: str
    organisation_name: str
    values: Mapping[str, Value]
    owner: str
    template: str

    @property
    def grant(self) -> str:
        return self.report.grant_for(self.organisation)

    @property
    def key(self) -> str:
        return self.report.key(self.organisation, self.values)


def order(
    settings: Settings, name: str, organisation: str, given: Mapping[str, Any], *, owner: str | None = None
) -> Order:
    """Reads catalogue and registry; raises UnknownReport, UnknownOrganisation, ParameterRefused or NoOwner."""
    catalogue = Catalogue.load(settings.reports)
    report = catalogue.get(name)
    registry = GrantBook.load(settings.grants).registry
    if registry.kind(organisation) != report.organisations:
        raise UnknownOrganisation(
            f"{report.name} is a report of {report.organisations} organisations; this is none that the registry has.",
            hint="It has: " + _some(registry.of_kind(report.organisations)) + ".",
        )
    values = report.values(given)
    template = catalogue.template(report).read_text(encoding="utf-8")
    answers = owner or report.owner_for(organisation)
    return Order(report, organisation, registry.name(organisation), values, answers, template)


def check_authority(settings: Settings, wanted: Order) -> None:
    """The owner holds the grant now, for this purpose, on the channel of reports; raises GrantRefused or UnknownUser."""
    book = GrantBook.load(settings.grants)
    groups = groups_of(wanted.owner)
    book.require(wanted.grant, groups, purpose=wanted.report.purpose, channel="reports")


def run(
    settings: Settings,
    wanted: Order,
    *,
    store: Store | None = None,
    trigger: str = "command",
    progress: Progress = lambda _: None,
) -> Output:
    """Runs the order and stores its output whole; the history gets a row either way.

    Raises GrantRefused, BindingRefused, BrokerDown, SandboxUnavailable, ReportFailed or OutputNotWritten.
    """
    store = store or Store(settings.lake / "reports")
    history = History(settings.state)
    identity = history.begin(
        report=wanted.report.name,
        organisation=wanted.organisation,
        key=wanted.key,
        grant=wanted.grant,
        owner=wanted.owner,
        trigger=trigger,
        parameters=wanted.values,
    )
    stamp: dict[str, Any] = {}
    try:
        check_authority(settings, wanted)
        before = store.read(wanted.grant, wanted.report.name, wanted.key)
        stamp = _begin_stamp(wanted, identity, trigger)
        files = _computed(settings, wanted, stamp, progress)
        output = store.write(stamp, wanted.key, files)
        note = old_release(settings.lake, str(stamp["release"]), before.manifest["stamp"] if before else None)
        history.end(identity, Status.SUCCEEDED, release=str(stamp["release"]), note=note)
        return output
    except WorkbenchError as error:
        reason = f"{error.reason} {error.hint}".strip()
        history.end(identity, Status.FAILED, code=error.code, reason=reason, release=stamp.get("release"))
        raise
    except BaseException as error:
        words = "The run was ended." if isinstance(error, KeyboardInterrupt) else type(error).__name__
        history.end(identity, Status.FAILED, code="internal", reason=words, release=stamp.get("release"))
        raise
    finally:
        history.close()


def _begin_stamp(wanted: Order, identity: str, trigger: str) -> dict[str, Any]:
    return {
        "report": wanted.report.name,
        "title": wanted.report.title,
        "audience": wanted.report.audience,
        "organisation": wanted.organisation,
        "organisation_name": wanted.organisation_name,
        "parameters": dict(wanted.values),
        "grant": wanted.grant,
        "owner": wanted.owner,
        "purpose": wanted.report.purpose,
        "template": wanted.report.template,
        "template_sha256": hashlib.sha256(wanted.template.encode()).hexdigest(),
        "code_version": code_version(),
        "run": identity,
        "trigger": trigger,
        "began": now(),
    }


def _computed(
    settings: Settings, wanted: Order, stamp: dict[str, Any], progress: Progress
) -> dict[str, bytes]:
    """The files of the output. Fills the stamp with what the broker says of release and slice.

    The audit knows of the run before its output is stored. Raises UnknownRelease where the lake has none.
    """
    open_release(settings.lake)
    control = Control(settings)
    seconds = wanted.report.limits.seconds
    with (
        control.running(),
        control.binding(
            server=f"report/{stamp['run']}",
            user=wanted.owner,
            grant=wanted.grant,
            purpose=wanted.report.purpose,
            seconds=seconds + BINDING_SPARE_SECONDS,
        ) as binding,
    ):
        progress(
            f"{wanted.report.name} for {wanted.organisation}: asking the broker for grant {wanted.grant}"
        )
        who = Transport(binding.folder / "broker.sock", binding.token).get("/whoami")
        for fact in ("release", "slice", "level", "as_of", "complete_through", "synthetic", "fitness"):
            stamp[fact] = who.get(fact)
        begun = time.monotonic()
        files = _sandboxed(wanted, stamp, binding, progress)
        stamp["seconds"] = round(time.monotonic() - begun, 2)
        control.tell(
            "report-ran",
            report=wanted.report.name,
            grant=wanted.grant,
            user=wanted.owner,
            outcome="answered",
            key=wanted.key,
        )
        return files


def _sandboxed(
    wanted: Order, stamp: Mapping[str, Any], binding: Binding, progress: Progress
) -> dict[str, bytes]:
    limits = wanted.report.limits
    job = {
        "template": wanted.template,
        "title": f"{wanted.report.title} · {wanted.organisation_name}",
        "parameters": {"organisation": wanted.organisation, **wanted.values, "run": dict(stamp)},
        "seconds": limits.seconds,
    }
    sandbox = Sandbox(
        command=[sys.executable, "-m", "workbench.reports.inside"],
        env={
            "WORKBENCH_BROKER": f"{BROKER_FOLDER}/broker.sock",
            "WORKBENCH_TOKEN": binding.token,
            "WORKBENCH_GRANT": wanted.grant,
            "MPLBACKEND": "agg",
            "JUPYTER_PLATFORM_DIRS": "1",
        },
        read_only={binding.folder: BROKER_FOLDER},
        limits=Limits(memory_bytes=limits.memory_mb << 20),
    )
    with _memory_file(json.dumps(job).encode()) as job_file:
        running = launch(sandbox, stdin=job_file, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process = running.process
    assert process.stdout is not None
    assert process.stderr is not None
    late = threading.Event()

    def stop() -> None:
        late.set()
        running.kill()

    watch = threading.Timer(limits.seconds, stop)
    listener = threading.Thread(target=_listen, args=(process.stderr, progress), daemon=True)
    watch.start()
    listener.start()
    try:
        answer = process.stdout.read(LARGEST_OUTPUT + 1)
    finally:
        watch.cancel()
        running.kill()
        running.wait(30)
        listener.join(5)
        process.stdout.close()
        process.stderr.close()
    if late.is_set():
        raise ReportFailed(
            f"The report took longer than its limit of {limits.seconds} s and was ended.",
            hint="Raise limits.seconds in the catalogue, or make the template lighter.",
        )
    return _files(answer, progress)


def _files(answer: bytes, progress: Progress) -> dict[str, bytes]:
    head, _, rest = answer.partition(b"\n")
    try:
        said = json.loads(head)
    except ValueError:
        said = None
    if not isinstance(said, dict) or len(answer) > LARGEST_OUTPUT:
        raise ReportFailed(
            "The report's process ended without an answer, or with one that is too large.",
            hint="Most often it ran out of memory: raise limits.memory_mb in the catalogue.",
        )
    if not said["ok"]:
        where = f"in the section “{said['section']}”" if said["section"] else "before its first section"
        why = (
            said["reason"]
            or "Its words may hold data and are not repeated; run the template in Lab to see them."
        )
        raise ReportFailed(f"The report stopped {where} with {said['name']}.", hint=why)
    progress("steps: " + ", ".join(f"{step} {seconds:.2f} s" for step, seconds in said["marks"].items()))
    files: dict[str, bytes] = {}
    for name, length in said["files"]:
        files[str(name)], rest = rest[:length], rest[length:]
    if set(files) != {HTML, NOTEBOOK} or rest:
        raise ReportFailed("The report's process answered with something that is not a report.")
    return files


def _listen(stream: IO[bytes], progress: Progress) -> None:
    """Passes on the progress lines and nothing else that the notebook may have written."""
    for line in stream:
        try:
            said = json.loads(line)
            text = f"cell {int(said['cell'])} of {int(said['of'])}"
        except (ValueError, KeyError, TypeError):
            continue
        section = str(said.get("section") or "")[:80]
        progress(f"{text}: {section}" if section else text)


def _memory_file(content: bytes) -> IO[bytes]:
    """A file without a name that holds the content; the token never stands on a disk."""
    file = os.fdopen(os.memfd_create("report-job"), "w+b")
    file.write(content)
    file.flush()
    file.seek(0)
    return file


def _some(names: list[str]) -> str:
    return ", ".join(names[:8]) + (" …" if len(names) > 8 else "")

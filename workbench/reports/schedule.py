"""Runs the catalogue's schedules: APScheduler, its jobs in a database of its own, and a history of what became of them.

A schedule rests while its grant or its owner's membership has lapsed, says so once in the history, and goes on by
itself when both hold again. What is in doubt (the Hub does not answer) neither stops nor runs it.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Any

from apscheduler import events
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.job import Job
from apscheduler.jobstores.memory import MemoryJobStore
from apscheduler.jobstores.sqlalchemy import SQLAlchemyJobStore
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.cron import CronTrigger
from apscheduler.triggers.interval import IntervalTrigger

from workbench.broker.directory import UnknownUser
from workbench.broker.grants import GrantRefused, InvalidGrants
from workbench.errors import WorkbenchError
from workbench.reports.catalogue import Catalogue, Report, Schedule, ScheduledRun
from workbench.reports.history import History, Status
from workbench.reports.run import Order, check_authority, order, run
from workbench.settings import Settings, settings

SYNC_SECONDS = 30
"""How often catalogue, grants and owners are read anew."""
LAPSES = (GrantRefused, InvalidGrants, UnknownUser)
"""What stops a schedule: nobody may run it any more."""

log = logging.getLogger("workbench.reports")


def fire(report: str, organisation: str, fingerprint: str) -> None:
    """One scheduled run: what APScheduler calls. Refusals and failures end in the history, not in an exception."""
    here = settings()
    scheduled = _scheduled(Catalogue.load(here.reports), report, organisation)
    if scheduled is None:
        return
    history = History(here.state)
    try:
        wanted = order(here, report, organisation, scheduled[2].parameters)
        if lapse(here, wanted, history) is None:
            run(here, wanted, trigger="schedule", progress=log.info)
    except WorkbenchError as error:
        log.error("%s of %s: %s", report, organisation, error.reason)
    finally:
        history.close()


def lapse(here: Settings, wanted: Order, history: History) -> WorkbenchError | None:
    """Why the schedule must rest, or None; a change of this is written to the history once.

    Raises what leaves it in doubt, as HubUnreachable.
    """
    rested = history.last(wanted.report.name, wanted.organisation, Status.STOPPED, Status.RESUMED)
    resting = rested is not None and rested.status is Status.STOPPED
    try:
        check_authority(here, wanted)
    except LAPSES as error:
        if not resting or (rested is not None and rested.code != error.code):
            _note(history, wanted, Status.STOPPED, error.code, f"{error.reason} {error.hint}".strip())
            log.warning("%s of %s rests: %s", wanted.report.name, wanted.organisation, error.reason)
        return error
    if resting:
        _note(history, wanted, Status.RESUMED, None, "The grant and the owner's membership hold again.")
    return None


def _note(history: History, wanted: Order, status: Status, code: str | None, reason: str) -> None:
    history.begin(
        report=wanted.report.name,
        organisation=wanted.organisation,
        key=wanted.key,
        grant=wanted.grant,
        owner=wanted.owner,
        trigger="schedule",
        parameters=wanted.values,
        status=status,
        code=code,
        reason=reason,
    )


class Schedules:
    """The running scheduler. `start` and `stop` it once; it keeps itself in step with the catalogue."""

    def __init__(self, here: Settings, sync_seconds: float = SYNC_SECONDS):
        self._settings = here
        self._sync_seconds = sync_seconds
        self.history = History(here.state)
        self.refusal: WorkbenchError | None = None
        """Why the catalogue cannot be read now, if so; the schedules of before go on."""
        file = here.state / "schedule.sqlite"
        file.touch(mode=0o600)
        self._pools = {"default": ThreadPoolExecutor(1), "sync": ThreadPoolExecutor(1)}
        self._scheduler = BackgroundScheduler(
            jobstores={"default": SQLAlchemyJobStore(url=f"sqlite:///{file}"), "memory": MemoryJobStore()},
            executors=self._pools,
            timezone="UTC",
        )
        self._scheduler.add_listener(
            self._missed, events.EVENT_JOB_MISSED | events.EVENT_JOB_MAX_INSTANCES | events.EVENT_JOB_ERROR
        )

    def start(self) -> None:
        """Begins: marks what a killed scheduler left running, reads the catalogue, and runs what is due."""
        self.history.interrupted()
        self._scheduler.start(paused=True)
        self.sync()
        self._scheduler.add_job(
            self.sync,
            "interval",
            seconds=self._sync_seconds,
            jobstore="memory",
            executor="sync",
            id="sync",
            coalesce=True,
        )
        self._scheduler.resume()

    def stop(self, *, wait: bool = False) -> None:
        """Ends. A run under way is waited for, or ends with the process and is marked at the next start."""
        self._scheduler.shutdown(wait=False)
        if wait:  # not by the scheduler, which would hold the lock that its jobs ask for
            for pool in self._pools.values():
                pool.shutdown(wait=True)
        self.history.close()

    def next_run(self, report: str, organisation: str) -> datetime | None:
        """When the report runs next; None if it rests or has no schedule."""
        job = self._scheduler.get_job(_identity(report, organisation), "default")
        return job.next_run_time if job else None

    def sync(self) -> None:
        """Brings the jobs in step with catalogue, grants and owners."""
        try:
            scheduled = list(Catalogue.load(self._settings.reports).scheduled())
            self.refusal = None
        except WorkbenchError as error:
            self.refusal = error
            log.error("The catalogue is refused: %s", error.reason)
            return
        wanted = {
            _identity(report.name, one.organisation): (report, rule, one) for report, rule, one in scheduled
        }
        for job in self._scheduler.get_jobs("default"):
            if job.id not in wanted:
                job.remove()
        for identity, (report, rule, one) in wanted.items():
            self._place(identity, report, rule, one)

    def _place(self, identity: str, report: Report, rule: Schedule, one: ScheduledRun) -> None:
        fingerprint = rule.model_dump_json(exclude={"runs"})
        job = self._scheduler.get_job(identity, "default")
        if job is None or job.kwargs["fingerprint"] != fingerprint:
            job = self._scheduler.add_job(
                "workbench.reports.schedule:fire",
                _trigger(rule),
                id=identity,
                kwargs={"report": report.name, "organisation": one.organisation, "fingerprint": fingerprint},
                misfire_grace_time=rule.misfire.grace_seconds,
                coalesce=rule.misfire.coalesce,
                replace_existing=True,
            )
        try:
            refusal = lapse(
                self._settings,
                order(self._settings, report.name, one.organisation, one.parameters),
                self.history,
            )
        except WorkbenchError as error:
            log.warning("%s of %s is in doubt: %s", report.name, one.organisation, error.reason)
            return
        if refusal is not None and job.next_run_time is not None:
            job.pause()
        elif refusal is None and job.next_run_time is None:
            job.resume()

    def _missed(self, event: events.JobEvent) -> None:
        """Writes a row for a time that passed without a run."""
        job: Job | None = self._scheduler.get_job(event.job_id, "default")
        if event.jobstore != "default" or job is None:
            return
        if event.code == events.EVENT_JOB_ERROR:
            log.error("A scheduled run ended in %s", type(getattr(event, "exception", None)).__name__)
            return
        if event.code == events.EVENT_JOB_MAX_INSTANCES:
            moments, why = event.scheduled_run_times, "the run before was still going"
        else:
            moments, why = (
                [event.scheduled_run_time],
                f"the scheduler was down or busy for more than {job.misfire_grace_time} s",
            )
        for moment in moments:
            self._miss(job, f"Missed its time of {_utc(moment)}: {why}.")

    def _miss(self, job: Job, reason: str) -> None:
        report, organisation = job.kwargs["report"], job.kwargs["organisation"]
        try:
            scheduled = _scheduled(Catalogue.load(self._settings.reports), report, organisation)
            if scheduled is None:
                return
            wanted = order(self._settings, report, organisation, scheduled[2].parameters)
        except WorkbenchError as error:
            log.error("%s of %s: %s", report, organisation, error.reason)
            return
        _note(self.history, wanted, Status.MISSED, "missed", reason)
        log.warning("%s of %s: %s", report, organisation, reason)


def _scheduled(
    catalogue: Catalogue, report: str, organisation: str
) -> tuple[Report, Schedule, ScheduledRun] | None:
    for found in catalogue.scheduled():
        if found[0].name == report and found[2].organisation == organisation:
            return found
    return None


def _identity(report: str, organisation: str) -> str:
    return f"{report}:{organisation}"


def _trigger(rule: Schedule) -> Any:
    if rule.cron is not None:
        return CronTrigger.from_crontab(rule.cron, timezone=rule.timezone)
    return IntervalTrigger(seconds=rule.every_seconds or 1, timezone=rule.timezone)


def _utc(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds")

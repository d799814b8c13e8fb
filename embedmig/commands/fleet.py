"""upgrade --each, status --each: one command for many databases or schemas, each with a ledger of its own.

Every tenant is a process of its own, with its own variables and nobody else's: no secret of one reaches another, and a
crash ends one run. There is no state beside the ledgers, so the same command does what is left.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from embedmig.config import environment_without
from embedmig.config.tenants import Fleet, Tenant, read_tenants, refuse_twins
from embedmig.errors import EXIT_INTERRUPTED, EXIT_LOCKED, EXIT_NO, UsageError

TenantState = Literal[
    "upgraded", "up to date", "behind", "unsettled", "closed", "locked", "failed", "interrupted", "not run"
]
WELL: frozenset[TenantState] = frozenset(("upgraded", "up to date"))
POLL_SECONDS = 0.1
LAST_LINES = 5

Say = Callable[[str, str], None]
"""Hears a line of a tenant: its name, and the line."""


@dataclass(frozen=True, slots=True)
class TenantOutcome:
    """What became of one tenant. ``current`` are its applied heads, ``revisions`` what this run applied, ``pending`` what is left
    of them where that was asked, and ``active`` the version that each alias shows. ``exit_code`` is that of its own command.
    """

    tenant: str
    state: TenantState
    current: list[str] = field(default_factory=list)
    revisions: list[str] = field(default_factory=list)
    pending: list[str] = field(default_factory=list)
    active: dict[str, str | None] = field(default_factory=dict)
    seconds: float = 0.0
    exit_code: int | None = None
    error: str | None = None
    hint: str | None = None


@dataclass(frozen=True, slots=True)
class FleetResult:
    """Every tenant in the order of the file, the canary first. ``behind`` names those that are not where they should be."""

    command: str
    canary: str
    tenants: list[TenantOutcome]
    behind: list[str]
    seconds: float


def upgrade_each(
    path: Path | str,
    target: str = "head",
    *,
    config: Path | str | None = None,
    database: str | None = None,
    parallel: int = 1,
    options: Sequence[str] = (),
    report: Say | None = None,
    stop: threading.Event | None = None,
    at_once: threading.Event | None = None,
) -> FleetResult:
    """Upgrades the tenants of a file: the canary, and if it is well, the others, ``parallel`` at a time. The failure of one stops
    no other. ``config`` and ``database`` are as for :func:`open_project`, ``options`` go to each ``embedmig upgrade``.

    ``report`` is called with a tenant's name and a line of its run. Setting ``stop`` ends each run after its current batch and
    begins no other; ``at_once`` ends them now. Raises :class:`ConfigError` with nothing touched.
    """
    asked = _Asked("upgrade", Path(path), ["upgrade", target, *options], config, database, parallel, canary=True)
    return _run(asked, report, Crew(stop or threading.Event(), at_once or threading.Event()))


def status_each(
    path: Path | str,
    *,
    config: Path | str | None = None,
    database: str | None = None,
    parallel: int = 4,
    stop: threading.Event | None = None,
) -> FleetResult:
    """Where each tenant of a file stands; changes nothing. Raises :class:`ConfigError`."""
    asked = _Asked("status", Path(path), ["status", "--check"], config, database, parallel, canary=False)
    return _run(asked, None, Crew(stop or threading.Event(), threading.Event()))


@dataclass(frozen=True)
class _Asked:
    command: str
    path: Path
    arguments: list[str]
    config: Path | str | None
    database: str | None
    parallel: int
    canary: bool


def _run(asked: _Asked, report: Say | None, crew: Crew) -> FleetResult:
    if asked.parallel < 1:
        raise UsageError("--parallel is at least 1")
    began = time.monotonic()
    settings = None if asked.config is None else Path(asked.config)
    environ = {**os.environ, **({"EMBEDMIG_DATABASE": asked.database} if asked.database else {})}
    fleet = read_tenants(asked.path, environ=environ)
    refuse_twins(fleet, asked.path, settings, environ=environ)
    given = [] if settings is None else ["--config", str(settings)]
    job = _Job([*given, "--json", *asked.arguments], _common(fleet, environ), report, crew)
    found = job.all_of(fleet.tenants, asked.parallel, canary=asked.canary)
    behind = [one.tenant for one in found if one.state not in WELL]
    return FleetResult(asked.command, fleet.tenants[0].name, found, behind, time.monotonic() - began)


def _common(fleet: Fleet, environ: dict[str, str]) -> dict[str, str]:
    """What every tenant's process has in its environment: nothing that was set for one of them."""
    kept = environment_without(fleet.hidden)
    return kept | {name: value for name, value in environ.items() if name == "EMBEDMIG_DATABASE"}


class Crew:
    """The processes of a fleet that are at work. They have sessions of their own, so that Ctrl-C is passed on once."""

    def __init__(self, stop: threading.Event, at_once: threading.Event) -> None:
        self.stop, self.at_once = stop, at_once
        self._working: dict[subprocess.Popen[bytes], int] = {}  # how often it was told to stop
        self._lock = threading.Lock()

    def begin(
        self, arguments: Sequence[str], environment: dict[str, str], out: Any, err: int
    ) -> subprocess.Popen[bytes]:
        """Starts ``embedmig`` with these arguments."""
        process = subprocess.Popen(  # noqa: S603  this very command
            [sys.executable, "-P", "-m", "embedmig", *arguments], stdin=subprocess.DEVNULL, stdout=out, stderr=err,
            start_new_session=True, env=environment,
        )  # fmt: skip
        with self._lock:
            self._working[process] = 0
        return process

    def ended(self, process: subprocess.Popen[bytes]) -> None:
        """It needs no telling any more."""
        with self._lock:
            del self._working[process]

    def pass_on(self) -> None:
        """Tells each once to end after its current batch, and a second time to end at once."""
        wanted = self.stop.is_set() + self.at_once.is_set()
        with self._lock:
            untold = [process for process, told in self._working.items() if told < wanted]
            for process in untold:
                self._working[process] += 1
                with suppress(ProcessLookupError):
                    process.send_signal(signal.SIGINT)


@dataclass(frozen=True)
class _Job:
    """One command line for all; ``environment`` is what they share."""

    arguments: list[str]
    environment: dict[str, str]
    report: Say | None
    crew: Crew

    def all_of(self, tenants: Sequence[Tenant], parallel: int, *, canary: bool) -> list[TenantOutcome]:
        """The outcomes in order; with a ``canary``, the others only if it is well."""
        first, rest = (tenants[:1], tenants[1:]) if canary else ((), tenants)
        with ThreadPoolExecutor(parallel, thread_name_prefix="tenant") as pool:
            found = self._wait_for([pool.submit(self._one, tenant) for tenant in first])
            if all(one.state in WELL for one in found):
                return found + self._wait_for([pool.submit(self._one, tenant) for tenant in rest])
        return found + [
            TenantOutcome(tenant.name, "not run", error="the canary came first, and it is not well") for tenant in rest
        ]

    def _wait_for(self, futures: Sequence[Future[TenantOutcome]]) -> list[TenantOutcome]:
        while wait(futures, POLL_SECONDS).not_done:
            self.crew.pass_on()
        return [future.result() for future in futures]

    def _one(self, tenant: Tenant) -> TenantOutcome:
        if self.crew.stop.is_set():
            return TenantOutcome(tenant.name, "not run", error="interrupted before its turn")
        began = time.monotonic()
        with tempfile.TemporaryFile() as out:
            process = self.crew.begin(self.arguments, self.environment | dict(tenant.variables), out, subprocess.PIPE)
            try:
                lines = self._listen(tenant, process)
                code = process.wait()
            finally:
                self.crew.ended(process)
            out.seek(0)
            printed = out.read()
        outcome = _outcome(tenant.name, printed, code, lines, time.monotonic() - began, stopped=self.crew.stop.is_set())
        if self.report:
            self.report(tenant.name, _in_words(outcome))
        return outcome

    def _listen(self, tenant: Tenant, process: subprocess.Popen[bytes]) -> list[str]:
        """Passes on what it says, and keeps the last lines."""
        lines: list[str] = []
        assert process.stderr is not None
        with process.stderr:
            for raw in process.stderr:
                line = raw.decode(errors="replace").rstrip()
                lines = [*lines, line][-LAST_LINES:]
                if self.report and line:
                    self.report(tenant.name, line)
        return lines


def _outcome(
    tenant: str, printed: bytes, code: int, lines: Sequence[str], seconds: float, *, stopped: bool
) -> TenantOutcome:
    """What a process printed as JSON; where it could not, the last that it said."""
    try:
        document = json.loads(printed)
    except ValueError:
        document = {"error": {"message": "\n".join(lines).strip() or f"ended with {code}", "hint": None}}
    error = document.get("error") or {}
    revisions, pending = document.get("revisions", []), document.get("pending", [])
    active = {name: found.get("active") for name, found in document.get("collections", {}).items()}
    state: TenantState
    if code == 0:
        state = "upgraded" if revisions else "up to date"
    elif code == EXIT_INTERRUPTED or (stopped and code < 0):
        state = "interrupted"
    elif code == EXIT_LOCKED:
        state = "locked"
    elif code == EXIT_NO:
        state = "closed" if error else "behind" if pending or document.get("partly") else "unsettled"
    else:
        state = "failed"
    return TenantOutcome(
        tenant, state, document.get("current", []), revisions, pending, active, round(seconds, 3), code,
        error.get("message"), error.get("hint"),
    )  # fmt: skip


def _in_words(found: TenantOutcome) -> str:
    """The last line of a tenant's run."""
    at = f", at {', '.join(found.current)}" if found.current else ""
    return f"{found.state}{at} ({found.seconds:.1f} s)"

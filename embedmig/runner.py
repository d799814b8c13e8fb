"""Carries a plan out: lock → plan → validate all → run each revision → record.

Everything is validated before anything is changed. Each revision is one attempt in the ledger; each operation one
entry in the journal. A run that ends early is continued by the same command: transactional operations that are done
are skipped, online ones find by themselves what is left, gates are asked again.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

import psycopg
from psycopg import errors as pg
from psycopg import sql

from embedmig.database import (
    TRANSIENT,
    Connection,
    LockWatch,
    RunLock,
    check_suitable,
    ident,
    in_one_go,
    refuse_standby,
    schema,
    translated,
)
from embedmig.database.ledger import DONE_BEFORE, NEVER_HAPPENED, Ledger, Status, ledger_exists
from embedmig.engine.backfill import NoWorkers, WorkerPool
from embedmig.errors import EXIT_FAILED, EXIT_USAGE, AnswerIsNo, CutoverBlocked, EmbedmigError, Interrupted, PlanError
from embedmig.events import Event, Notice, OperationFinished, OperationStarted, RevisionFinished, RevisionStarted
from embedmig.operations import hooks
from embedmig.operations.base import Context, Operation, PlannedSpace, PlannedState, Run
from embedmig.operations.flip_aliases import flips_of
from embedmig.operations.recording import record
from embedmig.operations.taking_back import NOTHING, PassedOver, journaled, passed_over, refuse_changed
from embedmig.revisions.progress import Progress, Way
from embedmig.revisions.scripts import Script
from embedmig.stores import aliases
from embedmig.types import Tally

LOCK_TIMEOUT_MS = 25  # readers and writers queue behind a waiting DDL lock: never for longer than this
FIRST_PAUSE_SECONDS, LAST_PAUSE_SECONDS = 0.01, 0.25  # between tries: those who queued meanwhile go first
LOCK_PATIENCE_SECONDS = 30.0  # then the flip gives up and names who is in its way


@dataclass(frozen=True)
class Step:
    """A revision in one direction, with the operations that its script recorded, and which of them are passed over."""

    script: Script
    direction: Way
    operations: tuple[Operation, ...]
    passed: PassedOver = NOTHING

    def skips(self, position: int) -> str | None:
        """Why an operation is not carried out; None where it is."""
        if position in self.passed.never:
            return NEVER_HAPPENED
        return DONE_BEFORE if position in self.passed.done and not self.operations[position].repeats else None


def step_of(script: Script, direction: Way) -> Step:
    """Loads a script and has it record. Raises :class:`ScriptError`, :class:`PlanError`."""
    function = getattr(script.load(), direction, None)
    if function is None:
        raise PlanError(
            f"{script.path.name} has no {direction}()",
            hint="write one: a gate on the version to go back to, then op.flip_alias to it",
        )
    try:
        return Step(script, direction, record(function))
    except Exception as error:
        raise script.blame(error) from error


def next_step(ledger: Ledger, conn: Connection, progress: Progress, script: Script, direction: Way) -> Step:
    """The step that takes a revision on from where it is, past what is done. Raises :class:`PlanError` as well where the
    script no longer begins with what was done of it.
    """
    step = step_of(script, direction)
    if not progress.partly:
        return step
    up = step.operations if direction == "upgrade" else step_of(script, "upgrade").operations
    down = _downgrade_of(script) if direction == "upgrade" else step.operations
    for way in ("upgrade", "downgrade"):
        journal = ledger.journal(conn, script.revision, way)
        refuse_changed(script.path.name, way, progress, journal, up if way == "upgrade" else down)
    return replace(step, passed=passed_over(progress, direction, up, down))


def _downgrade_of(script: Script) -> tuple[Operation, ...]:
    """The operations of ``downgrade()``; none where the script has none."""
    return step_of(script, "downgrade").operations if hasattr(script.load(), "downgrade") else ()


def plan_of(context: Context, conn: Connection, *, offline: bool) -> PlannedState:
    """The state from which a plan starts: what the registry says, or nothing where embedmig never ran."""
    plan = PlannedState(context, conn, offline=offline)
    if not ledger_exists(conn, context.database.schema):
        return plan
    plan.flips = context.ledger.flips(conn)
    plan.captured = {name for name in context.config.collections if context.registry.captured(conn, name)}
    for found in context.registry.spaces(conn):
        filled = found.live and found.state != "building"
        plan.spaces[found.collection, found.version] = PlannedSpace(
            found.space, found, filled, found.revision, found.adopted
        )
        if (alias := context.registry.alias(conn, found.collection)) is not None:
            plan.aliases[found.collection] = alias.version
    return plan


def validate(plan: PlannedState, steps: Sequence[Step]) -> None:
    """Every operation of every step, in order. Raises :class:`PlanError` and its kin, naming script and operation."""
    for step in steps:
        plan.revision, plan.direction = step.script.revision, step.direction
        for position, operation in enumerate(step.operations, 1):
            skipped = step.skips(position - 1)
            if skipped == NEVER_HAPPENED or (skipped and not operation.validated_again):
                continue
            try:
                operation.validate(plan)
            except EmbedmigError as error:
                error.message = f"{step.script.path.name}, {step.direction}(), operation {position} ({operation.kind}): {error.message}"
                error.args = (error.message,)
                error.exit_code = EXIT_USAGE if error.exit_code == EXIT_FAILED else error.exit_code
                raise


@dataclass
class Runner:
    """Runs steps at a context. ``stop`` ends the run after the requests in flight; ``report`` hears of everything.

    ``workers`` makes the pool that backfills have, when there are steps and all of them are valid.
    """

    context: Context
    report: Callable[[Event], None]
    stop: threading.Event
    no_wait: bool = False
    workers: Callable[[], WorkerPool] = NoWorkers

    def run(
        self, plan_steps: Callable[[Connection], Sequence[Step]], *, prepare: Callable[[Connection], None] | None = None
    ) -> int:
        """Takes the lock, asks for the steps under it, validates them all, runs them; returns how many there were.

        ``prepare`` is called under the lock when the ledger is there (``stamp`` uses it). Raises
        :class:`LockHeld` where another run holds the lock.
        """
        with ExitStack() as stack:
            stack.enter_context(translated("preparing the run"))
            lock = stack.enter_context(RunLock(self.context.database))
            conn = stack.enter_context(self.context.database.connect("runner", lock_timeout=True))
            refuse_standby(conn)
            check_suitable(conn)
            if schema.installed(conn, self.context.database.schema) not in (None, schema.HEAD):
                schema.upgrade(self.context.database)  # an older embedmig's tables: before anything reads them
            steps = plan_steps(conn)
            plan = plan_of(self.context, conn, offline=False)
            showing = dict(plan.aliases)  # what their predecessors left: validation refuses all else
            validate(plan, steps)
            pool = self.workers() if steps else NoWorkers()
            if steps or prepare:
                with translated("preparing the ledger"):
                    schema.upgrade(self.context.database)
                self.context.ledger.close_abandoned(conn)
            if prepare:
                prepare(conn)
            watch = stack.enter_context(LockWatch(lock, conn))
            for step in steps:
                self._run_step(step, conn, watch, showing, pool)
            return len(steps)

    # --- one revision

    def _run_step(
        self, step: Step, conn: Connection, lock: LockWatch, showing: dict[str, str | None], pool: WorkerPool
    ) -> None:
        script, began = step.script, time.monotonic()
        attempt = self.context.ledger.begin(conn, script.revision, step.direction, script.checksum)
        self.report(RevisionStarted(script.revision, script.message, step.direction, len(step.operations)))

        def fence(conn: Connection, did: Tally) -> None:
            self.context.ledger.fence(conn, attempt, did)

        run = Run(
            report=self.report, stop=self.stop, guard=lock.require, fence=fence,
            context=self.context, conn=conn, attempt=attempt, revision=script.revision, aliases=showing,
            no_wait=self.no_wait, pool=pool,
        )  # fmt: skip
        try:
            with translated(f"running {script.revision}"):
                for position, operation in enumerate(step.operations):
                    self._run_operation(run, position, operation, step.skips(position))
                    if self.stop.is_set():
                        raise Interrupted(
                            f"stopped in {script.revision}", hint="run the same command again: it goes on here"
                        )
            lock.require()
            self.context.ledger.finish(
                conn, attempt, "done", gates=run.verdicts, active_seconds=time.monotonic() - began - run.waits.held
            )
        except BaseException as error:
            self._record_failure(run, lock.lost or error, time.monotonic() - began - run.waits.held)
            if lock.lost and error is not lock.lost:  # what it was doing was cancelled, which says nothing of why
                raise lock.lost from error
            if isinstance(error, EmbedmigError) and error.exit_code == EXIT_USAGE:
                error.exit_code = EXIT_FAILED  # it began, so "nothing touched" is no longer true
            raise
        self.report(RevisionFinished(script.revision, step.direction, time.monotonic() - began))

    def _record_failure(self, run: Run, error: BaseException, seconds: float) -> None:
        """The attempt's end goes to the ledger on a connection of its own: the run's may be what failed."""
        status: Status = "failed"
        if isinstance(error, AnswerIsNo):
            status = "gated"
        elif isinstance(error, Interrupted | KeyboardInterrupt):
            status = "interrupted"
        try:
            with self.context.database.connect("record") as conn:
                self.context.ledger.finish(
                    conn, run.attempt, status, error=str(error), gates=run.verdicts, active_seconds=seconds
                )
        except (EmbedmigError, psycopg.Error) as late:
            # The next run marks this attempt as interrupted when it finds the lock free.
            self.report(Notice(f"the ledger could not be told ({late})"))

    # --- one operation

    def _run_operation(self, run: Run, position: int, operation: Operation, skipped: str | None) -> None:
        began, described, run.position = time.monotonic(), operation.describe(), position
        before = dict(run.aliases)
        self.report(OperationStarted(position, operation.kind, described))
        if skipped:
            outcome = skipped
            if skipped == DONE_BEFORE:
                operation.complete(run)
            self._journal(run, position, operation, outcome)
        elif operation.transactional:
            outcome, began = self._prepared(run, position, operation)
        else:
            self.context.ledger.begin_operation(run.conn, run.attempt, position, journaled(operation))
            outcome = operation.run(run)
            run.guard()
            self.context.ledger.finish_operation(run.conn, run.attempt, position, outcome)
        seconds = time.monotonic() - began
        self.report(OperationFinished(position, operation.kind, described, outcome, seconds, bool(skipped)))
        for flip in () if skipped else flips_of(operation):
            self.context.registry.time_flip(run.conn, flip.collection, seconds * 1000)
        self._tell_hook(run, before)

    def _tell_hook(self, run: Run, before: dict[str, str | None]) -> None:
        """The user's own command hears of aliases that moved. It can undo nothing: the flip is committed."""
        moved = {name: shown for name, shown in run.aliases.items() if shown != before.get(name)}
        if not moved:
            return
        flips = [{"collection": name, "from": before.get(name), "to": shown} for name, shown in moved.items()]
        if failed := hooks.after_flip(self.context.config, {"revision": run.revision, "flips": flips}):
            self.report(Notice(failed))

    def _journal(self, run: Run, position: int, operation: Operation, outcome: str) -> None:
        self.context.ledger.begin_operation(run.conn, run.attempt, position, journaled(operation))
        self.context.ledger.finish_operation(run.conn, run.attempt, position, outcome)

    def _prepared(self, run: Run, position: int, operation: Operation) -> tuple[str, float]:
        """Beside PostgreSQL first, then in it, then what could not be taken back. Of a connection that is lost nobody knows
        whether it has committed: then nothing is taken back, and the same command finishes it.
        """
        operation.prepare(run)
        try:
            applied = self._apply(run, position, operation)
        except EmbedmigError:
            operation.withdraw(run)
            raise
        operation.complete(run)
        return applied

    def _apply(self, run: Run, position: int, operation: Operation) -> tuple[str, float]:
        """One transaction: the effect, its journal entry and the fence. Locks that others hold are waited for in short,
        jittered tries, so that nobody queues behind this one. Returns the outcome and when the last try began.
        """
        deadline = time.monotonic() + LOCK_PATIENCE_SECONDS
        pause = FIRST_PAUSE_SECONDS
        transaction = in_one_go if flips_of(operation) else Connection.transaction
        while True:
            run.guard()
            began = time.monotonic()
            try:
                with transaction(run.conn):
                    run.conn.execute(sql.SQL("set local lock_timeout = {}").format(sql.Literal(LOCK_TIMEOUT_MS)))
                    self.context.ledger.fence(run.conn, run.attempt)
                    self.context.ledger.begin_operation(run.conn, run.attempt, position, journaled(operation))
                    outcome = operation.apply(run, run.conn)
                    self.context.ledger.finish_operation(run.conn, run.attempt, position, outcome)
            except TRANSIENT as error:
                if time.monotonic() > deadline or self.stop.is_set():
                    raise self._blocked(run, operation, error) from error
                time.sleep(random.uniform(pause / 2, pause))  # noqa: S311  jitter, not a secret
                pause = min(2 * pause, LAST_PAUSE_SECONDS)
                continue
            except aliases.NOT_IN_PLACE:
                if transaction is Connection.transaction:
                    raise
                transaction = Connection.transaction  # the view is dropped and made anew, statement by statement
                continue
            run.aliases |= {flip.collection: flip.version for flip in flips_of(operation)}
            return outcome, began

    def _blocked(self, run: Run, operation: Operation, error: pg.Error) -> EmbedmigError:
        """What stands in the way, by name."""
        if self.stop.is_set():
            return Interrupted("stopped while waiting for a lock", hint="run the same command again")
        names: list[str] = []
        for flip in flips_of(operation):
            source = self.context.source(run.conn, flip.collection)
            names += [one.as_string(run.conn) for one in (ident(*aliases.alias_name(source)), source.relation)]
        found = aliases.blockers(run.conn, names) if names else []
        what = "; ".join(found) or str(error).strip().splitlines()[0]
        return CutoverBlocked(
            f"{operation.describe()}: no lock within {LOCK_PATIENCE_SECONDS:.0f} s; nothing was changed. In the way: {what}",
            hint="end those transactions (a reader idle in transaction blocks it too), then run the same command again",
        )

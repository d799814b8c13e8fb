"""The ledger: one row per attempt at a revision, and the journal of its operations.

The current heads derive from it; there is no second source of truth. A revision is applied when the last attempt
at it that ended well went up and none has taken any of it back since; :mod:`embedmig.revisions.states` has all that it
can be. The row of the running attempt is also the fence: whoever writes on behalf of a run
does so in a transaction that finds that row still ``running``.
"""

from __future__ import annotations

import getpass
import json
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal

import psycopg
from psycopg import sql

from embedmig import __version__
from embedmig.database import Connection, ident
from embedmig.errors import RunSuperseded
from embedmig.revisions.progress import FlipHistory, Progress, Tried, Way, progress_of
from embedmig.revisions.states import after
from embedmig.types import Tally, Verdict

Direction = Literal["upgrade", "downgrade", "stamp", "unstamp", "retire"]
Status = Literal["running", "done", "failed", "gated", "interrupted"]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One row of ``embedding_migrations``; field by field as DESIGN 2.4 names them."""

    id: int
    revision: str
    direction: Direction
    status: Status
    checksum: str
    started_at: datetime
    finished_at: datetime | None
    active_seconds: float
    rows_done: int
    tokens: int
    cost_usd: float | None
    applied_by: str
    host: str
    tool_version: str
    error: str | None
    gates: list[dict[str, Any]] | None


@dataclass(frozen=True, slots=True)
class Stage:
    """The kind of operation that a running attempt is at; ``position`` counts from 0, ``backfill_seconds`` are those of all its backfills
    so far, pauses included.
    """

    position: int
    kind: str
    backfill_seconds: float


@dataclass(frozen=True, slots=True)
class Measured:
    """What a model did in ``seconds``; ``tokens`` is None where it doesn't say, ``when`` names the run."""

    rows: int
    tokens: int | None
    seconds: float
    when: str

    def seconds_for(self, rows: int, tokens: int | None) -> float:
        """How long so much would take: by tokens where both are known, for long texts take longer."""
        return tokens * self.seconds / self.tokens if tokens and self.tokens else rows * self.seconds / self.rows


@dataclass(frozen=True, slots=True)
class RecordedEstimate:
    """What an operation of an attempt was expected to take, and what it took; None where that was not noted."""

    attempt: int
    position: int
    estimate: dict[str, Any] | None
    truth: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Journaled:
    """An operation as the journal keeps it; ``fields`` is None where an older embedmig wrote it."""

    kind: str
    description: str
    fields: dict[str, Any] | None

    def is_same(self, other: Journaled) -> bool:
        """Whether both ask for the same thing. What an operation can be given since then is None where a script doesn't say it."""
        if self.fields is None or other.fields is None:
            return (self.kind, self.description) == (other.kind, other.description)
        return (self.kind, given(self.fields)) == (other.kind, given(other.fields))


def given(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Without those that are None."""
    return {name: value for name, value in fields.items() if value is not None}


DONE_BEFORE = "done by an earlier attempt"
NEVER_HAPPENED = "upgrade() never did what this takes back"
"""Outcomes of operations that an attempt passed over."""

FIELDS = sql.SQL(
    "id, revision, direction, status, checksum, started_at, finished_at, active_seconds, rows_done, tokens, "
    "cost_usd::float8, applied_by, host, tool_version, error, gates"
)


class Ledger:
    """Reads and writes the ledger of one schema. Reading wants SELECT alone."""

    def __init__(self, schema: str) -> None:
        self.attempts_table = ident(schema, "embedding_migrations")
        self.operations_table = ident(schema, "embedding_operations")

    # reading

    def attempts(self, conn: Connection) -> list[Attempt]:
        """Every attempt, oldest first."""
        query = sql.SQL("select {} from {} order by id").format(FIELDS, self.attempts_table)
        return [Attempt(*row) for row in conn.execute(query)]

    def progress(self, conn: Connection) -> dict[str, Progress]:
        """How far each revision is that was ever tried or stamped. A gate changes nothing, so it is no progress."""
        query = sql.SQL(
            """select a.revision, a.direction, a.status = 'done', a.checksum,
                 coalesce(array_agg(o.position) filter (where o.finished_at is not null and o.kind <> 'gate'), '{{}}')
               from {} a left join {} o on o.attempt = a.id where a.direction <> 'retire' group by a.id order by a.id"""
        ).format(self.attempts_table, self.operations_table)
        rows = conn.execute(query)
        return progress_of(Tried(row[0], row[1], row[2], row[3], frozenset(row[4])) for row in rows)

    def applied(self, conn: Connection) -> dict[str, str]:
        """The applied revisions, each with the checksum of the script that was applied."""
        return {name: one.checksum for name, one in self.progress(conn).items() if one.state == "applied"}

    def journal(self, conn: Connection, revision: str, way: Way) -> dict[int, Journaled]:
        """What a revision's operations were when they were last finished, by position, since it last ended well; of the
        attempt that ended well too.
        """
        query = sql.SQL(
            """select distinct on (o.position) o.position, o.kind, o.description, o.operation
               from {operations} o join {attempts} a on a.id = o.attempt
               where a.revision = %(revision)s and a.direction = %(way)s and o.finished_at is not null
                 and a.id >= coalesce((select max(id) from {attempts}
                   where revision = %(revision)s and status = 'done' and direction <> 'retire'), 0)
               order by o.position, a.id desc"""
        ).format(operations=self.operations_table, attempts=self.attempts_table)
        return {row[0]: Journaled(*row[1:]) for row in conn.execute(query, {"revision": revision, "way": way})}

    def flips(self, conn: Connection) -> dict[str, FlipHistory]:
        """What the flips of each collection left, as far as the journal has it; older ones than the journal are not known."""
        query = sql.SQL(
            """select a.revision, a.direction, o.operation from {} a
               left join {} o on o.attempt = a.id and o.kind in ('flip_alias', 'flip_aliases') and o.operation is not null
                 and o.finished_at is not null and o.outcome <> all(%s)
               where a.direction in ('stamp', 'unstamp') or o.attempt is not null order by a.id, o.position"""
        ).format(self.attempts_table, self.operations_table)
        found: dict[str, FlipHistory] = {}
        for revision, way, operation in conn.execute(query, ([DONE_BEFORE, NEVER_HAPPENED],)):
            if way in ("stamp", "unstamp"):
                for history in found.values():
                    history.stamped(revision, way)
            else:
                for flip in operation.get("flips", [operation]):
                    history = found.setdefault(flip["collection"], FlipHistory())
                    history.flipped(revision, way, flip["version"])
        return found

    def running(self, conn: Connection) -> Attempt | None:
        """The attempt that runs, or that died without a word and whose lock is free again."""
        query = sql.SQL("select {} from {} where status = 'running'").format(FIELDS, self.attempts_table)
        row = conn.execute(query).fetchone()
        return Attempt(*row) if row else None

    def stage(self, conn: Connection, attempt: int) -> Stage | None:
        """Where an attempt is; None between two operations."""
        query = sql.SQL(
            """select position, kind,
                 (select coalesce(sum(extract(epoch from coalesce(finished_at, clock_timestamp()) - started_at)), 0)::float8
                  from {table} where attempt = %(attempt)s and kind = 'backfill')
               from {table} where attempt = %(attempt)s and finished_at is null order by position desc limit 1"""
        ).format(table=self.operations_table)
        row = conn.execute(query, {"attempt": attempt}).fetchone()
        return Stage(*row) if row else None

    def measured(self, conn: Connection, spaces: sql.Identifier, model: str) -> Measured | None:
        """How fast a model was when it last embedded a thousand rows or more; else the last time that it embedded any.

        What was noted of a backfill goes before the figures of a whole attempt, which have index and gate in them. Of one that
        an operator held to a speed, the seconds count in which it was at work.
        """
        newest = sql.SQL("select * from ({}) found order by rows >= 1000 desc, id desc limit 1")
        noted = sql.SQL(
            """select (truth->>'rows')::bigint as rows, (truth->>'tokens')::bigint as tokens, case when (truth->>'throttled_seconds')::float8 > 0 and (truth->>'working_seconds')::float8 > 0
                        then (truth->>'working_seconds')::float8 else (truth->>'seconds')::float8 end as seconds,
                 a.revision, a.started_at::date as day, a.id
               from {} o join {} a on a.id = o.attempt
               where truth->>'model' = %s and (truth->>'rows')::bigint > 0 and (truth->>'seconds')::float8 > 0"""
        ).format(self.operations_table, self.attempts_table)
        whole = sql.SQL(
            """select rows_done as rows, nullif(tokens, 0) as tokens, active_seconds as seconds, a.revision, a.started_at::date as day, a.id
               from {} a join {} s on s.revision = a.revision
               where rows_done > 0 and active_seconds > 0 and s.definition->>'model' = %s"""
        ).format(self.attempts_table, spaces)
        for query in (noted, whole):
            row = conn.execute(newest.format(query), (model,)).fetchone()
            if row:
                return Measured(row[0], row[1], row[2], f"{row[3]} on {row[4]}")
        return None

    def recorded_estimates(self, conn: Connection, revision: str) -> list[RecordedEstimate]:
        """What backfills of a revision were expected to take and what they took, oldest first."""
        query = sql.SQL(
            """select o.attempt, o.position, o.estimate, o.truth from {} o join {} a on a.id = o.attempt
               where a.revision = %s and (o.estimate is not null or o.truth is not null) order by o.attempt, o.position"""
        ).format(self.operations_table, self.attempts_table)
        return [RecordedEstimate(*row) for row in conn.execute(query, (revision,))]

    # writing

    def close_abandoned(self, conn: Connection) -> None:
        """Marks the attempt of a runner that died as interrupted; called by whoever has the lock now.

        This is what fences the dead runner's last transaction off, should it still be in flight.
        """
        conn.execute(
            sql.SQL(
                "update {} set status = 'interrupted', finished_at = heartbeat_at, error = 'the runner died' where status = 'running'"
            ).format(self.attempts_table)
        )

    def begin(self, conn: Connection, revision: str, direction: Way, checksum: str) -> int:
        """Opens an attempt; the partial unique index allows one. Raises :class:`IllegalTransition`."""
        state = self.progress(conn).get(revision, Progress(revision)).state
        after(revision, state, "upgrade_end" if direction == "upgrade" else "downgrade_end")
        query = sql.SQL(
            """insert into {} (revision, direction, status, checksum, applied_by, host, tool_version)
               values (%s, %s, 'running', %s, %s, %s, %s) returning id"""
        ).format(self.attempts_table)
        row = conn.execute(
            query, (revision, direction, checksum, username(), socket.gethostname(), __version__)
        ).fetchone()
        assert row is not None
        return int(row[0])

    def finish(
        self, conn: Connection, attempt: int, status: Status, *, error: str | None = None,
        gates: Sequence[Verdict] = (), active_seconds: float = 0.0,
    ) -> None:  # fmt: skip
        """Closes an attempt. Raises :class:`RunSuperseded` if it is no longer this run's to close."""
        query = sql.SQL(
            """update {} set status = %s, finished_at = clock_timestamp(), error = %s, gates = %s, active_seconds = %s
               where id = %s and status = 'running'"""
        ).format(self.attempts_table)
        verdicts = json.dumps([asdict(verdict) for verdict in gates]) if gates else None
        if conn.execute(query, (status, error, verdicts, active_seconds, attempt)).rowcount != 1:
            raise RunSuperseded

    def fence(self, conn: Connection, attempt: int, did: Tally | None = None) -> None:
        """Inside a transaction: this run still owns the attempt. Adds what the transaction did; is the heartbeat too.

        Raises :class:`RunSuperseded` if another run has taken over.
        """
        query = sql.SQL(
            """update {} set heartbeat_at = clock_timestamp(), rows_done = rows_done + %(rows)s, tokens = tokens + %(tokens)s,
                 cost_usd = case when %(cost)s::float8 is null then cost_usd else coalesce(cost_usd, 0) + %(cost)s::float8::numeric end
               where id = %(attempt)s and status = 'running' returning id"""
        ).format(self.attempts_table)
        if conn.execute(query, {**_figures(did or Tally()), "attempt": attempt}).fetchone() is None:
            raise RunSuperseded(
                "another run took over, so this one stopped without writing further", hint="embedmig status shows which"
            )

    def credit(self, conn: Connection, revision: str, did: Tally) -> None:
        """Adds what a worker that joined did to the running attempt at a revision, if there is one."""
        query = sql.SQL(
            """update {} set rows_done = rows_done + %(rows)s, tokens = tokens + %(tokens)s,
                 cost_usd = case when %(cost)s::float8 is null then cost_usd else coalesce(cost_usd, 0) + %(cost)s::float8::numeric end
               where revision = %(revision)s and status = 'running'"""
        ).format(self.attempts_table)
        conn.execute(query, {**_figures(did), "revision": revision})

    def begin_operation(self, conn: Connection, attempt: int, position: int, operation: Journaled) -> None:
        """Notes that an operation starts; again at the same position is the same note."""
        query = sql.SQL(
            """insert into {} (attempt, position, kind, description, operation) values (%s, %s, %s, %s, %s)
               on conflict (attempt, position) do nothing"""
        ).format(self.operations_table)
        values = (attempt, position, operation.kind, operation.description, json.dumps(operation.fields))
        conn.execute(query, values)

    def finish_operation(self, conn: Connection, attempt: int, position: int, outcome: str) -> None:
        """Notes that an operation is done; in the same transaction as its effect, where it has one."""
        query = sql.SQL(
            "update {} set finished_at = clock_timestamp(), outcome = %s where attempt = %s and position = %s"
        ).format(self.operations_table)
        conn.execute(query, (outcome, attempt, position))

    def record_estimate(
        self, conn: Connection, attempt: int, position: int, field: Literal["estimate", "truth"], values: dict[str, Any]
    ) -> None:
        """Keeps what an operation is expected to take, or what it took."""
        query = sql.SQL("update {} set {} = %s where attempt = %s and position = %s")
        conn.execute(query.format(self.operations_table, ident(field)), (json.dumps(values), attempt, position))

    def stamp(self, conn: Connection, revision: str, direction: Literal["stamp", "unstamp"], checksum: str) -> None:
        """Records a revision as applied, or as not, without running it. Raises :class:`IllegalTransition`."""
        after(revision, self.progress(conn).get(revision, Progress(revision)).state, direction)
        query = sql.SQL(
            """insert into {} (revision, direction, status, checksum, finished_at, applied_by, host, tool_version)
               values (%s, %s, 'done', %s, now(), %s, %s, %s)"""
        ).format(self.attempts_table)
        conn.execute(query, (revision, direction, checksum, username(), socket.gethostname(), __version__))

    def note_by_hand(self, conn: Connection, revision: str, version: str, what: str) -> None:
        """A row that marks the point of no return of the revision that made a version: it was retired or released by hand."""
        query = sql.SQL(
            """insert into {} (revision, direction, status, checksum, finished_at, applied_by, host, tool_version, error)
               values (%s, 'retire', 'done', %s, now(), %s, %s, %s, %s)"""
        ).format(self.attempts_table)
        values = (revision, version, username(), socket.gethostname(), __version__, f"{version} {what}")
        conn.execute(query, values)


def username() -> str:
    """Who runs this, as the operating system says."""
    with suppress(KeyError, OSError):
        return getpass.getuser()
    return "unknown"


def ledger_exists(conn: Connection, schema: str) -> bool:
    """Whether embedmig has ever run here. Wants no right at all."""
    try:
        row = conn.execute(
            "select to_regclass(%s)", (ident(schema, "embedding_migrations").as_string(conn),)
        ).fetchone()
    except psycopg.errors.InsufficientPrivilege:
        return False
    return bool(row and row[0])


def _figures(did: Tally) -> dict[str, float | None]:
    return {"rows": did.rows, "tokens": did.tokens, "cost": did.cost}

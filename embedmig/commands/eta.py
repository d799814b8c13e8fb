"""When what is pending could be live, by arithmetic alone: the data opens the gate, and nothing here does."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from embedmig.commands.project import Project
from embedmig.commands.running import steps_between
from embedmig.database import Connection
from embedmig.database.ledger import ledger_exists
from embedmig.database.registry import SpaceRecord
from embedmig.engine.throttle import at_most, control
from embedmig.errors import EmbedmigError
from embedmig.operations.backfill import BackfillSpace
from embedmig.operations.base import Context, Operation
from embedmig.operations.derive_space import DeriveSpace
from embedmig.operations.flip_aliases import flips_of
from embedmig.operations.gate import Gate
from embedmig.source import count_rows
from embedmig.types import Space

RATE = "if started now, at the rate last measured"


@dataclass(frozen=True, slots=True)
class Eta:
    """The earliest time at which the last pending flip could happen, None where it can't be told, and what holds it."""

    at: datetime | None
    held_by: str


def eta(project: Project, now: datetime) -> Eta:
    """Follows the pending operations: backfills take their time, soaks and ``not_before`` of gates make them wait."""
    try:
        with project.looking() as (context, conn):
            steps = steps_between(project, conn, context, "upgrade", "heads")
            operations = [operation for step in steps for operation in step.operations]
            return _eta(context, conn, operations, now)
    except EmbedmigError as error:
        return Eta(None, f"unknown: {error.message}")


def _eta(context: Context, conn: Connection, operations: list[Operation], now: datetime) -> Eta:
    flips = [place for place, operation in enumerate(operations) if flips_of(operation)]
    if not operations:
        return Eta(None, "nothing is pending")
    derived = [operation.space for operation in operations if isinstance(operation, DeriveSpace)]
    at, held_by, unknown = now, RATE, False
    for operation in operations[: flips[-1] if flips else None]:
        if isinstance(operation, BackfillSpace) and operation.space not in derived:
            seconds = _seconds(context, conn, operation.space)
            unknown |= seconds is None
            at += timedelta(seconds=seconds or 0.0)
        elif isinstance(operation, Gate):
            for until, name in _waits(context, conn, operation, at):
                if until > at:
                    at, held_by = until, name
    if unknown:
        calendar = "" if held_by == RATE else f"; {held_by}"
        return Eta(None, f"unknown until a first run has measured the model{calendar}")
    return Eta(at, held_by)


def _waits(context: Context, conn: Connection, gate: Gate, at: datetime) -> list[tuple[datetime, str]]:
    """Until when a gate that is reached at ``at`` stays closed whatever the data is, and by what."""
    asked, waits = gate.evidence, []
    if asked.soak:
        record = _record(context, conn, gate.collection, gate.version)
        ready = record and record.live and record.state != "building" and record.state_since
        waits.append(
            ((ready or at) + timedelta(seconds=asked.soak_seconds), f"held by the gate's soak of {asked.soak}")
        )
    if asked.earliest:
        waits.append((asked.earliest, f"held by the gate's not_before {asked.not_before}"))
    return waits


def _seconds(context: Context, conn: Connection, space: Space) -> float | None:
    """What is left of a backfill, at the rate that its model last had; None where it never ran."""
    record = _record(context, conn, space.collection, space.tag)
    source = context.source(conn, space.collection)
    rows = context.manifest(conn, record).counts(conn).missing if record else count_rows(conn, source).eligible
    there = ledger_exists(conn, context.database.schema)
    before = context.ledger.measured(conn, context.registry.spaces_table, space.model) if there else None
    if not rows or before is None:
        return None if rows else 0.0
    asked = control(conn, context.registry, space.collection)
    return at_most(asked, rows, before.seconds_for(rows, None))[0]


def _record(context: Context, conn: Connection, collection: str, version: str) -> SpaceRecord | None:
    there = ledger_exists(conn, context.database.schema)
    record = context.registry.space(conn, collection, version) if there else None
    return record if record and record.live else None

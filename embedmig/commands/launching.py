"""When what is pending could be live, by arithmetic alone: the data opens the gate, and nothing here does."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from embedmig.commands.migrating import steps_between
from embedmig.commands.project import Project
from embedmig.database import Connection
from embedmig.database.ledger import ledger_exists
from embedmig.database.registry import SpaceRecord
from embedmig.errors import EmbedmigError
from embedmig.operations.backfill import BackfillSpace
from embedmig.operations.base import Operation, Site
from embedmig.operations.flip_alias import FlipAlias
from embedmig.operations.gate import Gate
from embedmig.source import count_rows
from embedmig.types import Space

RATE = "if started now, at the rate last measured"


@dataclass(frozen=True, slots=True)
class Launch:
    """The earliest time at which the last pending flip could happen, None where it can't be told, and what holds it."""

    at: datetime | None
    held_by: str


def launch(project: Project, now: datetime) -> Launch:
    """Follows the pending operations: backfills take their time, soaks and ``not_before`` of gates make them wait."""
    try:
        with project.looking() as (site, conn):
            steps = steps_between(project, conn, site, "upgrade", "heads")
            operations = [operation for step in steps for operation in step.operations]
            return _launch(site, conn, operations, now)
    except EmbedmigError as error:
        return Launch(None, f"unknown: {error.message}")


def _launch(site: Site, conn: Connection, operations: list[Operation], now: datetime) -> Launch:
    flips = [place for place, operation in enumerate(operations) if isinstance(operation, FlipAlias)]
    if not operations:
        return Launch(None, "nothing is pending")
    at, held_by, unknown = now, RATE, False
    for operation in operations[: flips[-1] if flips else None]:
        if isinstance(operation, BackfillSpace):
            seconds = _seconds(site, conn, operation.space)
            unknown |= seconds is None
            at += timedelta(seconds=seconds or 0.0)
        elif isinstance(operation, Gate):
            for until, name in _waits(site, conn, operation, at):
                if until > at:
                    at, held_by = until, name
    if unknown:
        calendar = "" if held_by == RATE else f"; {held_by}"
        return Launch(None, f"unknown until a first run has measured the model{calendar}")
    return Launch(at, held_by)


def _waits(site: Site, conn: Connection, gate: Gate, at: datetime) -> list[tuple[datetime, str]]:
    """Until when a gate that is reached at ``at`` stays closed whatever the data is, and by what."""
    asked, waits = gate.evidence, []
    if asked.soak:
        record = _record(site, conn, gate.collection, gate.version)
        ready = record and record.state not in ("building", "retired") and record.state_since
        waits.append(
            ((ready or at) + timedelta(seconds=asked.soak_seconds), f"held by the gate's soak of {asked.soak}")
        )
    if asked.earliest:
        waits.append((asked.earliest, f"held by the gate's not_before {asked.not_before}"))
    return waits


def _seconds(site: Site, conn: Connection, space: Space) -> float | None:
    """What is left of a backfill, at the rate that its model last had; None where it never ran."""
    record = _record(site, conn, space.collection, space.tag)
    source = site.source(conn, space.collection)
    rows = site.store(conn, record).counts(conn, site.registry).missing if record else count_rows(conn, source).eligible
    there = ledger_exists(conn, site.database.schema)
    before = site.ledger.measured(conn, site.registry.spaces_table, space.model) if there else None
    return 0.0 if not rows else before.seconds_for(rows, None) if before else None


def _record(site: Site, conn: Connection, collection: str, version: str) -> SpaceRecord | None:
    there = ledger_exists(conn, site.database.schema)
    record = site.registry.space(conn, collection, version) if there else None
    return record if record and record.state != "retired" else None

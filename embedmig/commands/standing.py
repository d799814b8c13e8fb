"""Where everything stands: status."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from embedmig import capture, gates
from embedmig.brake import Control, control
from embedmig.commands.project import Project, applied_revisions
from embedmig.db import Connection, lock_is_held
from embedmig.errors import EmbedmigError
from embedmig.evidence import Evaluation, newest_evals
from embedmig.evidence.kept import Kept
from embedmig.ledger import Attempt, ledger_exists
from embedmig.measuring import measure
from embedmig.operations.base import Site
from embedmig.registry import SpaceRecord
from embedmig.source import count_rows
from embedmig.types import Verdict


@dataclass(frozen=True, slots=True)
class SpaceStatus:
    """A space as ``status`` shows it; field by field the JSON of DESIGN 2.3. None is: not known.

    ``evals`` are the newest ones on a complete corpus, ``evaluated`` says with which golden set and when. What was
    measured on an incomplete corpus since then is apart, in ``partial_evals``, with its ``completeness``.
    """

    version: str
    revision: str
    state: str
    dimensions: int
    rows: int = 0
    complete: int = 0
    completeness: float = 0.0
    pending_changes: int | None = None
    oldest_pending_seconds: float | None = None
    failed_rows: int = 0
    index: str = "none"
    gates: list[Verdict] = field(default_factory=list)
    evals: dict[str, float] = field(default_factory=dict)
    evaluated: dict[str, Any] | None = None
    partial_evals: dict[str, Any] | None = None
    bytes: int = 0
    source_rows: int = 0
    orphans: int = 0
    untagged: int = 0
    content: Literal["checked", "unknown"] = "checked"
    failures: list[dict[str, Any]] = field(default_factory=list)
    model_error: str | None = None
    unaccounted: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Rollback:
    """What going back would be like right now. ``milliseconds`` is what the last flip took, measured.

    ``rows`` are missing or stale in the version gone back to, ``oldest_seconds`` the age of the oldest change it
    lacks; ``obstacle`` says why it could not be kept fresh, or reached, any more.
    """

    to: str
    milliseconds: float | None
    rows: int
    oldest_seconds: float | None
    obstacle: str | None


@dataclass(frozen=True, slots=True)
class CollectionStatus:
    """A collection as ``status`` shows it."""

    alias: str
    active: str | None
    source_rows: int
    blank_rows: int
    flip_ms: float | None
    spaces: list[SpaceStatus]
    capture: str = "none"
    held_back: str | None = None
    rollback: Rollback | None = None


@dataclass(frozen=True, slots=True)
class Status:
    """Where the project stands."""

    database: str
    heads: list[str]
    current: list[str]
    pending: list[str]
    running: dict[str, Any] | None
    edited: list[str]
    missing_scripts: list[str]
    collections: dict[str, CollectionStatus]
    last_attempt: dict[str, Any] | None = None

    @property
    def settled(self) -> bool:
        """Nothing pending, nothing edited: what ``--check`` asks."""
        return not self.pending and not self.edited and not self.missing_scripts


def status(project: Project) -> Status:
    """Looks at everything, changes nothing. SELECT rights are enough."""
    graph = project.graph
    with project.looking() as (site, conn):
        applied = applied_revisions(site, conn)
        there = ledger_exists(conn, site.database.schema)
        running = site.ledger.running(conn) if there else None
        attempts = site.ledger.attempts(conn) if there else []
        return Status(
            database=site.database.masked,
            heads=list(graph.heads()),
            current=list(graph.applied_heads(applied)),
            pending=[script.revision for script in reversed(graph.walk()) if script.revision not in applied],
            running=attempt_line(running) | {"alive": lock_is_held(conn, site.database.schema)} if running else None,
            edited=[s.revision for s in graph.scripts.values() if applied.get(s.revision) not in (None, s.checksum)],
            missing_scripts=[name for name in applied if name not in graph.scripts],
            collections={name: _collection_status(site, conn, name, there) for name in project.config.collections},
            last_attempt=attempt_line(attempts[-1]) if attempts else None,
        )


def attempt_line(attempt: Attempt) -> dict[str, Any]:
    """An attempt as JSON shows it."""
    return {
        "revision": attempt.revision, "direction": attempt.direction, "status": attempt.status,
        "started_at": attempt.started_at.isoformat(), "rows_done": attempt.rows_done, "tokens": attempt.tokens,
        "cost_usd": attempt.cost_usd, "by": f"{attempt.applied_by}@{attempt.host}", "error": attempt.error,
    }  # fmt: skip


def _collection_status(site: Site, conn: Connection, name: str, there: bool) -> CollectionStatus:
    source = site.source(conn, name)
    counted = count_rows(conn, source)
    if not there:
        return CollectionStatus(source.collection.alias, None, counted.eligible, counted.blank, None, [])
    alias = site.registry.alias(conn, name)
    flip_ms = alias.flip_ms if alias else None
    records = site.registry.spaces(conn, name)
    spaces = [_space_status(site, conn, record) for record in records]
    return CollectionStatus(
        source.collection.alias, alias.version if alias else None, counted.eligible, counted.blank, flip_ms, spaces,
        capture.state(conn, site.registry, source), _held_back(control(conn, site.registry, name)), _rollback(records, spaces, flip_ms),
    )  # fmt: skip


def _held_back(found: Control) -> str | None:
    """What an operator asked of running backfills, in words."""
    why = f" by {found.set_by}" + (f": {found.reason}" if found.reason else "")
    if found.paused:
        return f"paused{why}"
    return f"throttled to {found.rows_per_second:g} rows/s{why}" if found.rows_per_second else None


def _rollback(records: list[SpaceRecord], spaces: list[SpaceStatus], flip_ms: float | None) -> Rollback | None:
    """Back to the version that was shown last."""
    retained = [pair for pair in zip(records, spaces, strict=True) if pair[0].state == "retained"]
    if not retained:
        return None
    record, space = max(retained, key=lambda pair: str(pair[0].state_since))
    return Rollback(
        record.version,
        flip_ms,
        max(0, round(space.source_rows - space.complete)),
        space.oldest_pending_seconds,
        space.model_error,
    )


def _space_status(site: Site, conn: Connection, record: SpaceRecord) -> SpaceStatus:
    if record.state == "retired":
        return SpaceStatus(record.version, record.revision, record.state, record.space.dimensions, content="unknown")
    found = measure(conn, site.registry, site.source(conn, record.collection), record)
    counts, waits, asked = found.counts, found.waiting, site.config.gates
    failures = [{"key": key, "reason": reason} for key, reason in site.registry.failures(conn, record.id)]
    return SpaceStatus(
        version=record.version, revision=record.revision, state=record.state, dimensions=record.space.dimensions,
        source_rows=counts.eligible, rows=counts.vectors, complete=counts.complete, completeness=counts.completeness,
        pending_changes=waits.count if waits else None, oldest_pending_seconds=waits.oldest_seconds if waits else None,
        failed_rows=counts.failed, orphans=counts.orphans, untagged=counts.untagged,
        content="checked" if counts.hash_known else "unknown", index=found.index,
        gates=gates.evaluate(found, gates.Thresholds(asked.completeness, asked.freshness)),
        bytes=site.store(conn, record).bytes(conn), failures=failures, model_error=_model_error(site, record),
        unaccounted=[", ".join(key) for key in found.unaccounted], **_evals(site, conn, record),
    )  # fmt: skip


def _evals(site: Site, conn: Connection, record: SpaceRecord) -> dict[str, Any]:
    """The fields that say what the version's quality is."""
    known = Kept(site.database.schema).evals(conn, record.collection)
    sound, partial = newest_evals(known, record.version, site.config.gates.completeness)
    return {
        "evals": _values(sound) if sound else {},
        "evaluated": _occasion(sound) if sound else None,
        "partial_evals": _values(partial) | _occasion(partial) if partial else None,
    }


def _values(found: Evaluation) -> dict[str, Any]:
    return {name: round(measured["value"], 4) for name, measured in found.metrics.items()}


def _occasion(found: Evaluation) -> dict[str, Any]:
    """When and on what an evaluation was made."""
    return {
        "golden": found.golden, "queries": found.queries, "mode": found.mode, "completeness": found.completeness,
        "measured_at": found.measured_at.isoformat() if found.measured_at else None,
    }  # fmt: skip


def _model_error(site: Site, record: SpaceRecord) -> str | None:
    """Why the space's model could not be used now: said before a rollback needs it. Calls no API."""
    try:
        site.encoder(record.space, record.weights)
    except EmbedmigError as error:
        return error.message
    return record.model_error

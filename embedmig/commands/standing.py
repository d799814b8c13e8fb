"""Where everything stands: status."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from embedmig import gates
from embedmig.commands.project import Project, applied_revisions
from embedmig.db import Connection
from embedmig.ledger import Attempt, ledger_exists
from embedmig.operations.base import Site
from embedmig.registry import SpaceRecord
from embedmig.source import count_rows
from embedmig.types import Verdict


@dataclass(frozen=True, slots=True)
class SpaceStatus:
    """A space as ``status`` shows it; field by field the JSON of DESIGN 2.3. None is: not known."""

    version: str
    revision: str
    state: str
    dimensions: int
    rows: int
    complete: int
    completeness: float
    pending_changes: int | None
    oldest_pending_seconds: float | None
    failed_rows: int
    orphans: int
    untagged: int
    content: Literal["checked", "unknown"]
    index: str
    gates: list[Verdict]
    evals: dict[str, float]
    bytes: int
    failures: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class CollectionStatus:
    """A collection as ``status`` shows it."""

    alias: str
    active: str | None
    source_rows: int
    blank_rows: int
    flip_ms: float | None
    spaces: list[SpaceStatus]


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
            running=attempt_line(running) if running else None,
            edited=[s.revision for s in graph.scripts.values() if applied.get(s.revision) not in (None, s.checksum)],
            missing_scripts=[name for name in applied if name not in graph.scripts],
            collections={name: _collection_status(site, conn, name, there) for name in project.config.collections},
            last_attempt=attempt_line(attempts[-1]) if attempts else None,
        )


def attempt_line(attempt: Attempt) -> dict[str, Any]:
    return {
        "revision": attempt.revision, "direction": attempt.direction, "status": attempt.status,
        "started_at": attempt.started_at.isoformat(), "rows_done": attempt.rows_done, "tokens": attempt.tokens,
        "cost_usd": attempt.cost_usd, "by": f"{attempt.applied_by}@{attempt.host}", "error": attempt.error,
    }  # fmt: skip


def _collection_status(site: Site, conn: Connection, name: str, there: bool) -> CollectionStatus:
    source = site.source(conn, name)
    counted = count_rows(conn, source)
    alias = site.registry.alias(conn, name) if there else None
    spaces = [_space_status(site, conn, record) for record in site.registry.spaces(conn, name)] if there else []
    return CollectionStatus(
        source.collection.alias, alias.version if alias else None, counted.eligible, counted.blank,
        alias.flip_ms if alias else None, spaces,
    )  # fmt: skip


def _space_status(site: Site, conn: Connection, record: SpaceRecord) -> SpaceStatus:
    store = site.store(conn, record)
    counts, index = store.counts(conn, site.registry), store.index_state(conn)
    failures = [{"key": key, "reason": reason} for key, reason in site.registry.failures(conn, record.id)]
    return SpaceStatus(
        version=record.version, revision=record.revision, state=record.state, dimensions=record.space.dimensions,
        rows=counts.vectors, complete=counts.complete, completeness=counts.completeness, pending_changes=None,
        oldest_pending_seconds=None, failed_rows=counts.failed, orphans=counts.orphans, untagged=counts.untagged,
        content="checked" if counts.hash_known else "unknown", index=index,
        gates=gates.evaluate(counts, index, site.config.gates.completeness), evals={}, bytes=store.bytes(conn), failures=failures,
    )  # fmt: skip

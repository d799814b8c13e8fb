"""``embedmig audit``: compares the vectors that are stored with what the registry says. Read-only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from embedmig.database import Connection, translated
from embedmig.database.ledger import ledger_exists
from embedmig.database.registry import SpaceRecord
from embedmig.errors import DatabaseFailed, SourceError, StoreError
from embedmig.quality.audit.checks import audit_alias, audit_collection, audit_space, untagged_columns
from embedmig.quality.audit.context import AuditContext
from embedmig.quality.audit.finding import AuditFinding, Sampled
from embedmig.quality.audit.reembedding import sample_space
from embedmig.stores.presence import require_vectors

__all__ = ["Audit", "AuditFinding", "Audited", "Sampled", "audit"]


@dataclass(frozen=True, slots=True)
class Audited:
    """A space that was looked at: how many vectors it has, and what a sample of them showed, where one was drawn."""

    collection: str
    version: str
    state: str
    vectors: int
    sample: Sampled | None = None


@dataclass(frozen=True, slots=True)
class Audit:
    """Everything that was looked at, and everything that was found."""

    spaces: list[Audited] = field(default_factory=list)
    findings: list[AuditFinding] = field(default_factory=list)


def audit(context: AuditContext, conn: Connection, collections: list[str], *, sample: int = 0, seed: int = 0) -> Audit:
    """Looks at every space of some collections, and at vector columns that no space accounts for.

    ``sample`` vectors of each space are made anew by the model that is said to have made them; which ones, ``seed``
    decides. Wants SELECT alone. Raises what the model raises.
    """
    found = Audit()
    for name in collections:
        try:
            with translated(f"auditing {name}"):
                for space, findings in _audit(context, conn, name, sample, seed):
                    found.spaces.extend([space] if space else [])
                    found.findings.extend(findings)
        except (SourceError, StoreError, DatabaseFailed) as error:  # the other collections are looked at all the same
            if conn.broken:
                raise
            found.findings.append(AuditFinding("source", name, None, 1, None, error.message, error.hint or ""))
    return found


def _audit(
    context: AuditContext, conn: Connection, name: str, sample: int, seed: int
) -> Iterator[tuple[Audited | None, list[AuditFinding]]]:
    source = context.source(conn, name)
    records = context.registry.spaces(conn, name) if ledger_exists(conn, context.database.schema) else []
    yield None, list(untagged_columns(conn, source, records))
    if not records:
        return
    yield (
        None,
        [*audit_collection(conn, context.registry, source, records), *audit_alias(conn, context.registry, source)],
    )
    for record in records:
        if record.live:
            yield _audit_space(context, conn, record, records, sample, seed)


def _audit_space(
    context: AuditContext, conn: Connection, record: SpaceRecord, records: list[SpaceRecord], sample: int, seed: int
) -> tuple[Audited, list[AuditFinding]]:
    source = context.source(conn, record.collection)
    try:
        require_vectors(conn, source, record)
    except SourceError as error:
        gone = AuditFinding("gone", record.collection, record.version, 1, None, error.message, error.hint or "")
        return Audited(record.collection, record.version, record.state, 0), [gone]
    source = source.reading(record.text_columns)
    vectors, findings = audit_space(conn, context.registry, source, record, records)
    drawn, foreign = sample_space(context, conn, source, record, sample, seed) if sample and vectors else (None, [])
    return Audited(record.collection, record.version, record.state, vectors, drawn), [*findings, *foreign]

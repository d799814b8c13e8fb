"""The tables that evidence is kept in: evaluations, and what shadow reads saw. Reading wants SELECT alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import psycopg
from psycopg import sql

from embedmig.database import Connection, clock, ident, whoami
from embedmig.database.registry import SpaceRecord
from embedmig.gates.evidence import Evaluation, Known, Pair, verdicts
from embedmig.gates.quality_verdict import QualityVerdict, quality_verdict
from embedmig.gates.thresholds import Evidence
from embedmig.types import GONE, Verdict

READS_KEPT = 10_000  # shadow reads of one version; older ones are forgotten

FIELDS = sql.SQL(
    "version, golden, golden_digest, k, mode, queries, metrics, latency_ms, completeness, measured_by, beside, measured_at, worst, "
    "recalled_by, depth"
)


@dataclass(frozen=True, slots=True)
class ShadowRead:
    """One read that the active version answered and another version repeated. Times in milliseconds, model and search.

    ``query`` is None unless the reader was told to keep texts.
    """

    collection: str
    active: str
    other: str
    k: int
    overlap: float | None = None
    active_ms: float | None = None
    other_ms: float | None = None
    error: str | None = None
    query: str | None = None


@dataclass(frozen=True, slots=True)
class ShadowFigures:
    """What the shadow reads of one version beside one active version say: how many were answered and failed, the mean
    overlap@10, the median and 95th percentile of both times in milliseconds, and from when to when.
    """

    active: str
    other: str
    samples: int
    errors: int
    overlap: float | None
    active_ms: Sequence[float] | None
    other_ms: Sequence[float] | None
    first: datetime
    last: datetime


class EvidenceTable:
    """Reads and writes the evidence of one schema."""

    def __init__(self, schema: str) -> None:
        self.evals_table = ident(schema, "evals")
        self.reads_table = ident(schema, "shadow_reads")

    def evals(
        self, conn: Connection, collection: str, limit: int = 1000, *, reranked: bool = False
    ) -> list[Evaluation]:
        """The evaluations of a collection's versions, newest first; or those of re-rankings, which are apart: no gate and no
        verdict on a version counts them.
        """
        query = sql.SQL(
            "select {} from {} where collection = %s and (depth is not null) = %s order by id desc limit %s"
        )
        rows = conn.execute(query.format(FIELDS, self.evals_table), (collection, reranked, limit))
        return [replace(Evaluation(*row[:-2]), recalled_by=row[-2], depth=row[-1]) for row in rows]

    def add_eval(self, conn: Connection, collection: str, found: Evaluation) -> None:
        """Keeps an evaluation; ``measured_by`` and ``measured_at`` are those of this moment."""
        query = sql.SQL(
            """insert into {} (collection, version, golden, golden_digest, k, mode, queries, metrics, latency_ms,
                 completeness, measured_by, beside, worst, scores, recalled_by, depth)
               values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"""
        ).format(self.evals_table)
        values = (
            collection, found.version, found.golden, found.golden_digest, found.k, found.mode, found.queries,
            json.dumps(found.metrics), json.dumps(found.latency_ms), found.completeness, whoami(), found.beside,
            json.dumps(found.worst, ensure_ascii=False), found.scores, found.recalled_by, found.depth,
        )  # fmt: skip
        conn.execute(query, values)

    def scores(self, conn: Connection, collection: str, found: Evaluation) -> list[float] | None:
        """Each question's nDCG of an evaluation that was read here; None where they were not kept."""
        query = sql.SQL(
            "select scores from {} where (collection, version, mode, measured_at) = (%s, %s, %s, %s) "
            "and depth is not distinct from %s limit 1"
        )
        values = (collection, found.version, found.mode, found.measured_at, found.depth)
        row = conn.execute(query.format(self.evals_table), values).fetchone()
        return row[0] if row else None

    def quality(self, conn: Connection, records: Sequence[SpaceRecord], completeness: float) -> QualityVerdict | None:
        """Of one collection's version that is shown, beside the one that was shown before; None where none is shown."""
        active = next((record for record in records if record.state == "active"), None)
        if active is None:
            return None
        before = [record for record in records if record.state in ("retained", *GONE) and record.state_since]
        last = max(before, key=lambda one: (one.live, str(one.state_since)), default=None)
        name = active.collection
        known = Known(name, active.version, clock(conn), completeness, evals=self.evals(conn, name))
        replaced = last.version if last else None
        return quality_verdict(known, replaced, lambda found: self.scores(conn, name, found))

    def add_read(self, conn: Connection, read: ShadowRead) -> None:
        query = sql.SQL(
            """insert into {} (collection, active, other, k, overlap_at_k, active_ms, other_ms, error, query)
               values (%s, %s, %s, %s, %s, %s, %s, %s, %s)"""
        ).format(self.reads_table)
        values = (
            read.collection, read.active, read.other, read.k, read.overlap, read.active_ms, read.other_ms, read.error,
            read.query,
        )  # fmt: skip
        conn.execute(query, values)

    def prune_reads(self, conn: Connection, collection: str, other: str, keep: int = READS_KEPT) -> int:
        """Forgets all but the newest reads of a version; returns how many went. A role that may not delete keeps them."""
        query = sql.SQL(
            """delete from {table} where collection = %(c)s and other = %(o)s and id <= (
                 select id from {table} where collection = %(c)s and other = %(o)s order by id desc offset %(keep)s limit 1)"""
        ).format(table=self.reads_table)
        try:
            return conn.execute(query, {"c": collection, "o": other, "keep": keep}).rowcount
        except psycopg.errors.InsufficientPrivilege:
            return 0

    def pair(self, conn: Connection, collection: str, other: str, since: datetime | None = None) -> Pair:
        """What the shadow reads of a version say; those before ``since`` are left out."""
        query = sql.SQL(
            """select count(*) filter (where error is null), avg(overlap_at_k) filter (where k = 10),
                      percentile_cont(0.95) within group (order by other_ms) filter (where error is null),
                      count(error)
               from {} where collection = %(c)s and other = %(o)s and (%(since)s::timestamptz is null or at >= %(since)s)"""
        ).format(self.reads_table)
        row = conn.execute(query, {"c": collection, "o": other, "since": since}).fetchone()
        return Pair(*row) if row else Pair()

    def shadows(self, conn: Connection, collection: str) -> list[ShadowFigures]:
        """All shadow reads that are kept of a collection, a pair of versions each; the one read last first."""
        query = sql.SQL(
            """select active, other, count(*) filter (where error is null), count(error),
                      avg(overlap_at_k) filter (where k = 10),
                      percentile_cont(array[0.5, 0.95]) within group (order by active_ms) filter (where error is null),
                      percentile_cont(array[0.5, 0.95]) within group (order by other_ms) filter (where error is null),
                      min(at), max(at)
               from {} where collection = %s group by active, other order by max(at) desc, active, other"""
        ).format(self.reads_table)
        return [ShadowFigures(*row) for row in conn.execute(query, (collection,))]

    def known(self, conn: Connection, record: SpaceRecord, now: datetime, completeness: float) -> Known:
        """Everything that a gate on a version asks the tables for."""
        since = None if not record.live or record.state == "building" else record.state_since
        shadow_since = since if record.state == "ready" else None
        return Known(
            record.collection, record.version, now, completeness, since, self.evals(conn, record.collection),
            self.pair(conn, record.collection, record.version, shadow_since),
        )  # fmt: skip

    def judge(
        self, conn: Connection, record: SpaceRecord, thresholds: Evidence, now: datetime, completeness: float
    ) -> list[Verdict]:
        """The verdicts on a version; reads nothing where no threshold is set."""
        return verdicts(thresholds, self.known(conn, record, now, completeness)) if thresholds.given else []

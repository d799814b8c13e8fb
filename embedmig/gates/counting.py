"""Figures for looking: counted where that is quick, kept where nothing has changed since, and else drawn from a sample.

An exact count reads every text of the source and every key of the space. A verdict asks for it, once, and keeps it with
a *mark*: what would be different if anything had been written, truncated or configured otherwise since then.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from psycopg import errors as pg
from psycopg import sql

from embedmig.database import Connection, ident, planned_rows, scalar
from embedmig.database.registry import Registry
from embedmig.engine.outbox import unsettled
from embedmig.intervals import share_error
from embedmig.source import HAS_TEXT, Source, SourceCounts, count_rows
from embedmig.source.rows import Key
from embedmig.source.sampling import about, leaves, sampled_rows, some_pages
from embedmig.stores import Manifest, SpaceCounts

SMALL = 50_000  # rows by the planner's estimate: up to here everything is counted, every time
PAGES = 96  # read of the source for a sample; a table of any size costs the same
Mark = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Counted:
    """What a space holds against its source, and how that is known.

    ``at`` is when it was counted, None for an estimate. ``error`` is the half-width of the estimated completeness'
    95 % interval. ``unaccounted`` is None where nobody looked.
    """

    counts: SpaceCounts
    at: datetime | None
    error: float = 0.0
    unaccounted: tuple[Key, ...] | None = None

    @property
    def exact(self) -> bool:
        """Whether every row was compared."""
        return self.at is not None


# --- how large --------------------------------------------------------------------------------------------------


def is_small(conn: Connection, *relations: sql.Composable) -> bool:
    """Whether each relation is small enough to be counted for a look."""
    return all(planned_rows(conn, relation) <= SMALL for relation in relations)


# --- what was counted before ------------------------------------------------------------------------------------


def mark(conn: Connection, registry: Registry, manifest: Manifest) -> Mark:
    """What would be different if the space, its source, what waits between them or the question had changed.

    To be taken *before* the count, outside its transaction: what is committed in between then spoils the mark instead of
    slipping in behind it. PostgreSQL publishes the counters of a session some seconds late, captured changes at once.
    """
    if conn.info.server_version >= 150000:
        conn.execute("select pg_stat_force_next_flush()")  # what this session wrote itself
    source, record = manifest.source, manifest.record
    shown = source.collection
    asked = json.dumps([shown.table, shown.key, shown.text, shown.where, record.fingerprint], default=list)
    return {
        "asked": hashlib.sha256(asked.encode()).hexdigest(),
        "written": [written(conn, table) for table in manifest.tables],
        "waiting": scalar(conn, sql.SQL(
            "select count(*) || ' ' || coalesce(sum(hashtextextended(u::text, 0)), 0) from ({}) u").format(
            unsettled(conn, registry, source, record.id))),
        "refused": scalar(conn, sql.SQL(
            "select count(*) || ' ' || coalesce(sum(hashtextextended(f::text, 0)), 0) from {} f where space = {}").format(
            registry.failed_table, sql.Literal(record.id))),
        "role": scalar(conn, "select current_user::text") if source.row_security else None,
    }  # fmt: skip


def written(conn: Connection, relation: sql.Composable) -> list[str]:
    """The file of each part of a table (a TRUNCATE makes a new one), and how many rows were ever written to it."""
    rows = conn.execute(
        """select c.oid, pg_relation_filenode(c.oid), pg_stat_get_tuples_inserted(c.oid), pg_stat_get_tuples_updated(c.oid),
                  pg_stat_get_tuples_deleted(c.oid) from pg_class c where c.oid = any(%s) order by c.oid""",
        (leaves(conn, relation),),
    )
    return [" ".join(map(str, row)) for row in rows]


def keep(conn: Connection, registry: Registry, space: int, found: Mark, counted: Counted) -> None:
    """Writes an exact count down for whoever looks next; who may not write leaves it."""
    query = sql.SQL(
        """insert into {} as c (space, mark, counts, unaccounted, counted_at) values (%s, %s, %s, %s, %s)
           on conflict (space) do update set mark = excluded.mark, counts = excluded.counts,
             unaccounted = excluded.unaccounted, counted_at = excluded.counted_at where c.counted_at < excluded.counted_at"""
    ).format(ident(registry.schema, "counts"))
    values = (json.dumps(found), json.dumps(asdict(counted.counts)), json.dumps(counted.unaccounted), counted.at)
    with suppress(pg.InsufficientPrivilege, pg.ReadOnlySqlTransaction), conn.transaction():
        conn.execute("set transaction read write")
        conn.execute(query, (space, *values))


def kept(conn: Connection, registry: Registry, space: int, found: Mark) -> Counted | None:
    """The last exact count, if nothing has happened since."""
    query = sql.SQL("select mark, counts, unaccounted, counted_at from {} where space = %s")
    row = conn.execute(query.format(ident(registry.schema, "counts")), (space,)).fetchone()
    if row is None or row[0] != found:
        return None
    unaccounted = tuple(tuple(key) for key in row[2]) if row[2] is not None else None
    return Counted(SpaceCounts(**row[1]), row[3], unaccounted=unaccounted)


# --- a sample ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Sample:
    """Some pages of a source: how many rows they hold, how many of those want a vector, have one, have no text, and have
    a vector without a version; ``error`` is the half-width of the 95 % interval of the share that has one.
    """

    rows: int
    wanted: int
    present: int
    blank: int
    untagged: int
    error: float

    @property
    def share(self) -> float:
        """The completeness of what was read."""
        return self.present / self.wanted if self.wanted else 1.0

    def of(self, part: int, total: int) -> int:
        """A part of the sample, as a part of ``total`` rows."""
        return round(total * part / self.rows) if self.rows else 0


def draw(conn: Connection, source: Source, manifest: Manifest | None) -> Sample:
    """Reads :data:`PAGES` pages and looks their rows up in the space by key.

    Rows of a page are alike (a backfill goes by key), so the error is that of pages and not of rows.
    """
    pages = some_pages(conn, source.relation, PAGES)
    present = manifest.held() if manifest else sql.SQL("false")
    untagged = manifest.untagged() if manifest else sql.SQL("false")
    query = sql.SQL(
        """with s as materialized ({sample}),
           seen as materialized (
             select embedmig_page as page, embedmig_eligible and {has_text} as wanted,
                    embedmig_eligible and not {has_text} as blank, {untagged} as untagged,
                    case when embedmig_eligible and {has_text} then {present} else false end as present from s),
           clusters as (
             select count(*) as n, count(*) filter (where wanted) as x, count(*) filter (where wanted and present) as y,
                    count(*) filter (where blank) as b, count(*) filter (where untagged) as u from seen group by page)
           select count(*), coalesce(sum(n), 0)::bigint, coalesce(sum(x), 0)::bigint, coalesce(sum(y), 0)::bigint,
                  coalesce(sum(b), 0)::bigint, coalesce(sum(u), 0)::bigint,
                  coalesce(sum(x * x), 0)::float8, coalesce(sum(x * y), 0)::float8, coalesce(sum(y * y), 0)::float8
           from clusters"""
    ).format(
        sample=sampled_rows(source, pages, manifest.own_columns if manifest else ()), has_text=HAS_TEXT, present=present,
        untagged=untagged,
    )  # fmt: skip
    # Each row of the sample is looked up by its key: a plan that reads the whole space would cost what a count costs.
    conn.execute("set local enable_seqscan = off; set local enable_bitmapscan = off; set local jit = off")
    row = conn.execute(query).fetchone()
    assert row is not None
    rows, wanted, present, blank, untagged = row[1:6]
    return Sample(rows, wanted, present, blank, untagged, share_error(row[0], wanted, present, row[6:]))


def estimate(conn: Connection, registry: Registry, manifest: Manifest) -> Counted | None:
    """What a space holds, from a sample: never 1.0, which means every row. None where the sample has no eligible row."""
    found = draw(conn, manifest.source, manifest)
    if not found.wanted:
        return None
    total = about(conn, manifest.source.relation, PAGES)
    eligible = found.of(found.wanted, total)
    complete = min(round(eligible * found.share), max(0, eligible - 1))
    refused = scalar(
        conn, sql.SQL("select count(*) from {} where space = %s").format(registry.failed_table), (manifest.record.id,)
    )
    adopted = manifest.record.adopted
    vectors = found.of(found.present, total) if adopted else about(conn, manifest.table, PAGES)
    counts = SpaceCounts(
        eligible, complete, vectors,
        blank=found.of(found.blank, total), failed=refused, untagged=found.of(found.untagged, total),
        hash_known=not adopted,
    )  # fmt: skip
    return Counted(counts, None, error=found.error)


def source_rows(conn: Connection, source: Source) -> tuple[SourceCounts, bool]:
    """Rows of the source, and whether they were counted."""
    if source.foreign or is_small(conn, source.relation):
        return count_rows(conn, source), True
    with conn.transaction():
        found, total = draw(conn, source, None), about(conn, source.relation, PAGES)
    return SourceCounts(found.of(found.wanted + found.blank, total), found.of(found.blank, total), 0), False

"""What re-ranking reads did and cost, counted by version and day."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields

from psycopg import sql

from embedmig.database import Connection, ident, scalar


@dataclass(frozen=True, slots=True)
class ReadCounts:
    """``reads`` that a version might have re-ranked; those that it did; the ``candidates`` of all of them, and how many of these
    had its vector when they were asked for; how often the time was over first, and how often nothing could be asked of the
    model. ``texts`` were embedded because of reads; ``tokens`` and ``cost``, in USD, are those of texts and queries.
    """

    reads: int = 0
    reranked: int = 0
    candidates: int = 0
    found: int = 0
    budget_ended: int = 0
    unavailable: int = 0
    texts: int = 0
    tokens: int = 0
    cost: float = 0.0

    def plus(self, other: ReadCounts) -> ReadCounts:
        """Both together."""
        return ReadCounts(*(getattr(self, name) + getattr(other, name) for name in FIELDS))


FIELDS: Sequence[str] = [one.name for one in fields(ReadCounts)]


class ReadCountsTable:
    """The table of one schema. Reading wants SELECT alone."""

    def __init__(self, schema: str) -> None:
        self.table = ident(schema, "read_counts")

    def add(self, conn: Connection, space: int, counts: ReadCounts) -> None:
        """Adds to today's figures; a transaction holds the row from then on."""
        names = sql.SQL(", ").join(map(ident, FIELDS))
        sums = sql.SQL(", ").join(sql.SQL("{0} = c.{0} + excluded.{0}").format(ident(name)) for name in FIELDS)
        query = sql.SQL(
            """insert into {} as c (space, day, {}) values (%s, current_date, {})
               on conflict (space, day) do update set {}, last_at = now()"""
        ).format(self.table, names, sql.SQL(", ").join([sql.SQL("%s")] * len(FIELDS)), sums)
        conn.execute(query, (space, *astuple(counts)))

    def total(self, conn: Connection, space: int) -> ReadCounts:
        """Since the version was first used so."""
        sums = sql.SQL(", ").join(sql.SQL("coalesce(sum({}), 0)").format(ident(name)) for name in FIELDS)
        row = conn.execute(sql.SQL("select {} from {} where space = %s").format(sums, self.table), (space,)).fetchone()
        assert row is not None
        counts: list[int] = [int(value) for value in row[:-1]]
        return ReadCounts(**dict(zip(FIELDS, counts, strict=False)), cost=float(row[-1]))

    def reads_per_second(self, conn: Connection, collection_spaces: Sequence[int]) -> float | None:
        """Of the last day on which there were any; None where nobody counted."""
        query = sql.SQL(
            """select sum(reads) / greatest(extract(epoch from max(last_at) - min(first_at)), 1)::float8 from {0}
               where space = any(%s) and day = (select max(day) from {0} where space = any(%s) and reads > 0)"""
        ).format(self.table)
        found: float | None = scalar(conn, query, (list(collection_spaces),) * 2)
        return found

"""Thresholds of similarity as PostgreSQL keeps them: one value for each version and name."""

from __future__ import annotations

from dataclasses import astuple, dataclass

from psycopg import sql

from embedmig.database import Connection, ident, scalar
from embedmig.errors import CutUnknown


@dataclass(frozen=True, slots=True)
class Cut:
    """What counts as near enough for ``name`` in a version: similarity at least ``similarity``, distance at most ``max_distance``.

    A value that was ``carried_from`` another version has a 95 % interval, and was measured on ``pairs`` of the same texts, of which
    ``above`` lie at or over it. One that was declared has none of these.
    """

    version: str
    name: str
    similarity: float
    max_distance: float
    low: float | None = None
    high: float | None = None
    carried_from: str | None = None
    pairs: str | None = None
    above: int | None = None


FIELDS = sql.SQL("version, name, similarity, max_distance, low, high, carried_from, pairs, above")


class CutsTable:
    """The thresholds of one schema. Reading wants SELECT alone."""

    def __init__(self, schema: str) -> None:
        self.table = ident(schema, "cuts")

    def all_of(self, conn: Connection, collection: str) -> list[Cut]:
        """Of a collection, by name, the oldest first."""
        query = sql.SQL("select {} from {} where collection = %s order by name, settled_at, version")
        return [Cut(*row) for row in conn.execute(query.format(FIELDS, self.table), (collection,))]

    def save(self, conn: Connection, collection: str, cut: Cut) -> None:
        """In the place of an older one of the same version and name."""
        query = sql.SQL(
            """insert into {} (collection, {}) values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
               on conflict (collection, version, name) do update set similarity = excluded.similarity, low = excluded.low,
                 high = excluded.high, max_distance = excluded.max_distance, carried_from = excluded.carried_from,
                 pairs = excluded.pairs, above = excluded.above, settled_at = now()"""
        ).format(self.table, FIELDS)
        conn.execute(query, (collection, *astuple(cut)))

    def limit(self, conn: Connection, collection: str, version: str, name: str) -> float:
        """The largest distance that a hit may have. Raises :class:`CutUnknown`: no other version's value is taken for it."""
        query = sql.SQL("select max_distance from {} where (collection, version, name) = (%s, %s, %s)").format(
            self.table
        )
        found = scalar(conn, query, (collection, version, name))
        if found is None:
            raise CutUnknown(
                f"the cut {name!r} of {collection} has no value for {version}",
                hint=f"declare it in [collections.{collection}.cuts], then: embedmig cuts {collection}",
            )
        return float(found)

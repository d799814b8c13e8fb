"""The nearest rows of a version whose vectors are in a store beside PostgreSQL.

The store says which points are near; PostgreSQL says which of them are shown: those that the manifest names, of rows that are
there. So a row that is deleted is not found from its commit on, and a point that nobody named is never found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from psycopg import sql

from embedmig.database import Connection, ident, in_thread, literal, scalar
from embedmig.database.cursors import escaped, fixed
from embedmig.database.registry import AliasRecord, SpaceRecord
from embedmig.errors import StoreError
from embedmig.formatting import plural
from embedmig.source import Source, list_columns
from embedmig.source.rows import Key
from embedmig.stores.adopted_place import is_adopted
from embedmig.stores.kinds import open_external
from embedmig.stores.manifest_table import OFFSETS
from embedmig.stores.pgvector.search import (
    CHUNKS,
    Shown,
    among,
    column_names,
    conditions,
    key_text,
    read_hit,
    reading,
    split_columns,
    view_of,
)
from embedmig.stores.protocol import rows_once
from embedmig.types import Hit, Metric, Space

if TYPE_CHECKING:
    from embedmig.config import Collection
    from embedmig.stores.external import ExternalStore

MARGIN = 10  # points that are asked for beyond the rows wanted: some may be of rows that were deleted a moment ago


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownFromStore(Shown):
    """A relation of key, chunk, version, ``point_id`` and the application's columns, and the store that has the points."""

    store: ExternalStore

    def nearest(
        self, conn: Connection, vector: Sequence[float], k: int, *, exact: bool = False, where: Mapping[str, Any] | None = None
    ) -> list[Hit]:  # fmt: skip
        """Over-fetched, and asked for more until there are ``k`` rows or the store has no more. ``where`` is asked in the store,
        and again in PostgreSQL, which alone has the columns as they are now; of an adopted collection there alone.
        """
        wanted, values = conditions(self, where or {})
        values["version"] = self.version
        asked = {} if self.store.record.adopted else where or {}
        filtered = self.store.wanted(asked) | self._keys_as_text(conn, asked)
        limit = k * CHUNKS if self.space.chunk else k + max(MARGIN, k // 2)
        while True:
            near = partial(self.store.near, vector, limit, filtered, exact=exact)
            points = in_thread(partial(self.store.attempt, near))  # stores' clients can only wait
            distances = {point.id: point.distance for point in points}
            of_these = sql.SQL("point_id = any(%(ids)s::{}[]) and {}").format(self._id_type, wanted)
            query = self._query(of_these)
            found = [
                read_hit(row, self)
                for row in self._placed(reading(conn).execute(query, values | {"ids": list(distances)}), distances)
            ]
            rows = rows_once(found)
            if len(rows) >= k or len(points) < limit:
                return rows[:k]
            limit *= 4

    def query_among(self, keys: sql.Composable) -> sql.SQL:
        """The points of a relation of keys, as PostgreSQL names them."""
        return fixed(self._query(among(self, keys)))

    def among(
        self, conn: Connection, query: sql.SQL, keys: Mapping[str, Any], vector: Sequence[float]
    ) -> list[Hit]:  # fmt: skip
        """The points that PostgreSQL names, compared here. Raises :class:`StoreError` where the store lacks one of them."""
        rows = reading(conn).execute(query, {"version": self.version, **keys}).fetchall()
        at = 2 * len(self.keys) + 2
        vectors = in_thread(lambda: self.store.fetch(conn, [row[at] for row in rows]))
        if missing := [row[at] for row in rows if row[at] not in vectors]:
            raise StoreError(
                f"{self.store.settings.name} lacks {plural(len(missing), 'point')} of {self.version} that PostgreSQL names",
                hint=f"embedmig sync {self.space.collection} --repair",
            )
        distances = distances_of(self.space.metric, vector, {row[at]: vectors[row[at]] for row in rows})
        return rows_once([read_hit(row, self) for row in self._placed(rows, distances)])

    def vectors(self, conn: Connection, keys: sql.Composable) -> dict[tuple[Key, int], Sequence[float]]:
        """Of the points that PostgreSQL names and the store has."""
        query = sql.SQL("select array[{}], chunk, point_id::text from {} where {}").format(
            key_text(self), escaped(self.relation), among(self, escaped(keys))
        )
        rows = conn.execute(query, {"version": self.version}).fetchall()
        held = in_thread(lambda: self.store.fetch(conn, [row[2] for row in rows]))
        return {(tuple(key), chunk): held[one] for key, chunk, one in rows if one in held}

    def _keys_as_text(self, conn: Connection, where: Mapping[str, Any]) -> dict[str, Any]:
        """Values of key columns as PostgreSQL prints them, which is how points have them."""
        found: dict[str, Any] = {}
        for column in self.store.source.key:
            if column.name in where:
                value = where[column.name]
                many = isinstance(value, list | tuple | set | frozenset)
                query = sql.SQL("select array(select v::text from unnest(%s::{}[]) v)").format(
                    literal(column.qualified)
                )
                texts = scalar(conn, query, (list(value) if many else [value],))
                found[column.name] = texts if many else texts[0]
        return found

    @property
    def _id_type(self) -> sql.SQL:
        return sql.SQL("text" if self.store.record.adopted else "uuid")

    def _query(self, wanted: sql.Composable) -> sql.Composed:
        names = (*(OFFSETS if self.offsets else ()), *self.columns)
        extra = sql.Composed([sql.SQL(", {}").format(ident(name)) for name in names])
        return sql.SQL(
            "select {keys}, {key_text}, chunk, version, point_id::text{extra} from {relation} "
            "where {wanted}"
        ).format(
            keys=sql.SQL(", ").join(ident(name) for name in self.keys), key_text=key_text(self), extra=extra,
            relation=escaped(self.relation), wanted=wanted,
        )  # fmt: skip

    def _placed(self, rows: Any, distances: Mapping[str, float]) -> list[tuple[Any, ...]]:
        """The rows with their distance in the place of the point's id, nearest first."""
        at = 2 * len(self.keys) + 2
        order = {one: place for place, one in enumerate(distances)}
        found = sorted(rows, key=lambda row: order[row[at]])
        return [(*row[:at], distances[row[at]], *row[at + 1 :]) for row in found]


def distances_of(metric: Metric, vector: Sequence[float], points: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """By id, nearest first, as pgvector measures: one less cosine, L2, or the negative inner product."""
    import numpy as np

    if not points:
        return {}
    query, held = np.asarray(vector, np.float64), np.asarray(list(points.values()), np.float64)
    if metric == "l2":
        found = np.linalg.norm(held - query, axis=1)
    else:
        found = -(held @ query)
        if metric == "cosine":
            found = 1 + found / (np.linalg.norm(held, axis=1) * np.linalg.norm(query))
    return dict(sorted(zip(points, found.tolist(), strict=True), key=lambda one: one[1]))


def shown_from_store(
    conn: Connection, relation: sql.Composable, space: Space, version: str, store: ExternalStore
) -> ShownFromStore:
    """A relation with the columns that it has now."""
    names = column_names(conn, relation)
    keys, columns = split_columns(names, "point_id")
    offsets = space.chunk is not None and set(OFFSETS) <= set(names)
    return ShownFromStore(relation, keys, columns, version, space, None, 0, offsets, store=store)


def shown_by_alias(conn: Connection, alias: AliasRecord, space: Space, collection: Collection) -> ShownFromStore:
    """What the alias' view shows, which is all that a reader need be allowed to read, and the store that the alias names."""
    assert alias.encoder is not None
    record = SpaceRecord(
        id=alias.space or 0, collection=alias.collection, version=alias.version or "", fingerprint=alias.fingerprint or "",
        revision="", state="active", adopted=is_adopted(alias.encoder["place"]), place=tuple(alias.encoder["place"]), writer="", definition=alias.encoder["space"],
        text_columns=(), weights="", state_since=None,
    )  # fmt: skip
    with view_of(conn, alias) as relation:
        keys, columns = split_columns(column_names(conn, relation), "point_id")
        oid = scalar(conn, "select %s::regclass::oid::bigint", (relation.as_string(conn),))
        known = list_columns(conn, oid)
        source = Source(
            collection, 0, "", "", tuple(known[name] for name in keys), (), tuple(known[name] for name in columns),
            row_security=False,
        )  # fmt: skip
        return shown_from_store(conn, relation, space, record.version, in_thread(lambda: open_external(source, record)))

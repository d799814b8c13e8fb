"""The table of a version that is kept for a rollback, in half precision.

The column's type changes and nothing else: the version keeps its name, the alias shows it under the type that it had, and
whoever writes it writes as before. Its index goes first, so that the disk never holds it beside the table's two forms.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from psycopg import sql

from embedmig.database import Connection, literal, scalar
from embedmig.errors import DatabaseFailed
from embedmig.formatting import size
from embedmig.source.sampling import about
from embedmig.stores.index_sizes import IndexStorage, index_bytes, table_bytes
from embedmig.stores.pgvector import build_resources, index
from embedmig.stores.pgvector.hnsw import encoding_of, index_name, storages
from embedmig.stores.pgvector.table import PgvectorStore
from embedmig.stores.protocol import IndexOptions
from embedmig.types import Hit

QUERIES, FIRST = 50, 10  # vectors of the version's own that are searched for, and rows that are compared
SEED = 16


class Rounded(PgvectorStore):
    """The version as it would be in half precision."""

    def value_shown(self) -> sql.Composed:
        """Rounded on the way."""
        rounded = literal(f"halfvec({self.space.dimensions})")
        return sql.SQL("e.embedding::{}::{} as embedding").format(rounded, literal(self.space.storage))


@dataclass(frozen=True, slots=True)
class Compaction:
    """What is done to one version's table."""

    store: PgvectorStore

    def rewrites(self) -> bool:
        """Whether the vectors are in single precision."""
        return not (self.store.space.half_precision or self.store.record.rounded)

    # --- the index

    def index(self, conn: Connection) -> dict[str, Any] | None:
        """The index that there is, as :func:`compacted_options` reads it; None where there is no valid one."""
        for storage in self._forms():
            if index.state(conn, self.store.place, self.store.space, storage) == "valid":
                given = scalar(
                    conn, "select reloptions from pg_class where oid = to_regclass(%s)", (self._name(conn, storage),)
                )
                said = dict(option.split("=") for option in given or ())
                form = encoding_of(conn, self.store.place.relation)
                return {
                    "storage": storage, "rerank": form.rerank if form else 1,
                    "m": int(said.get("m", 16)), "ef_construction": int(said.get("ef_construction", 64)),
                }  # fmt: skip
        return None

    def drop_index_sql(self) -> list[sql.Composed]:
        """In each form that it may have."""
        return [index.drop(self.store.place, self.store.space, storage) for storage in self._forms()]

    def _forms(self) -> tuple[IndexStorage, ...]:
        return storages(self.store.space)

    def _name(self, conn: Connection, storage: IndexStorage) -> str:
        name = index_name(self.store.place.table, self.store.space, storage)
        return sql.Identifier(self.store.place.schema, name).as_string(conn)

    def create_index_sql(self, found: Mapping[str, Any]) -> list[sql.Composable]:
        """As it comes back."""
        rounded = replace(self.store.record, compacted={"rounded": self.rewrites() or self.store.record.rounded})
        return PgvectorStore(self.store.source, rounded).index_sql(compacted_options(found))

    # --- the table

    def rewrite_sql(self) -> list[sql.Composed]:
        """Whoever reads or writes the version waits while it is rewritten; nobody who reads the alias does."""
        query = "alter table {table} alter column embedding type {half} using embedding::{half}"
        half = literal(f"halfvec({self.store.space.dimensions})")
        return [sql.SQL(query).format(table=self.store.table, half=half)]

    def require_room(self, conn: Connection) -> None:
        """Raises :class:`DatabaseFailed` where the disk, as far as it can be seen, can't hold both forms of the table."""
        machine, (_, after) = build_resources.look(conn, None), self.bytes(conn, about(conn, self.store.table), None)
        if machine.disk is not None and machine.disk < 2 * after:
            raise DatabaseFailed(
                f"the table in half precision needs about {size(2 * after)} of disk, its log included, and {machine.folder} "
                f"has {size(machine.disk)} left",
                hint="make room, then run the same command again",
            )

    def bytes(self, conn: Connection, rows: int, found: Mapping[str, Any] | None) -> tuple[int, int]:
        """What the version takes, and what it will with the index ``found``; None: without one."""
        dimensions = self.store.space.dimensions
        after = table_bytes(rows, dimensions, "halfvec")
        if found is not None:
            kept = compacted_options(found)
            after += index_bytes(rows, dimensions, kept.storage or "halfvec", kept.m)
        return self.store.disk_bytes(conn, rows), after

    # --- what it costs

    def lost_by_rounding(self, conn: Connection) -> dict[str, Any]:
        """Before anything is changed: as :func:`recall`, of ``rounded`` vectors compared with all others, and of the ``index_before``."""
        found = {"rounded": Rounded(self.store.source, self.store.record)} if self.rewrites() else {}
        return self._recall(conn, found, "index_before")

    def lost_by_index(self, conn: Connection) -> dict[str, Any]:
        """Afterwards: of the ``index`` as it is then."""
        return self._recall(conn, {}, "index")

    def _recall(self, conn: Connection, stores: Mapping[str, PgvectorStore], through: str) -> dict[str, Any]:
        ways: dict[str, Callable[[Sequence[float]], list[Hit]]] = {
            name: lambda vector, store=store: store.search(conn, vector, FIRST + 1, exact=True)  # type: ignore[misc]
            for name, store in stores.items()
        }
        if self.index(conn):
            ways[through] = lambda vector: self.store.search(conn, vector, FIRST + 1)
        return recall(conn, self.store, ways) if ways else {}


def compacted_options(found: Mapping[str, Any]) -> IndexOptions:
    """For the index of the compacted version: what is in single precision is rounded, and then needs no second look."""
    if found["storage"] == "vector":
        return IndexOptions(found["m"], found["ef_construction"])
    return IndexOptions(found["m"], found["ef_construction"], found["storage"], found["rerank"])


def recall(
    conn: Connection, store: PgvectorStore, ways: Mapping[str, Callable[[Sequence[float]], list[Hit]]]
) -> dict[str, Any]:
    """Which share of the ten rows nearest to a row, every vector compared, each way of searching finds; the mean of some rows."""
    shares: dict[str, list[float]] = {name: [] for name in ways}
    for drawn in store.draw(conn, QUERIES, SEED):
        nearest = others(store.search(conn, drawn.vector, FIRST + 1, exact=True), drawn.key)
        for name, search in ways.items() if nearest else ():
            shares[name].append(len(nearest & others(search(drawn.vector), drawn.key)) / len(nearest))
    return {"queries": max(map(len, shares.values())), "first": FIRST} | {
        name: round(sum(found) / len(found), 4) for name, found in shares.items() if found
    }


def others(hits: Sequence[Hit], own: Sequence[str]) -> set[tuple[str, ...]]:
    """The first rows beside the one that is searched for."""
    return set([hit.key_text for hit in hits if hit.key_text != tuple(own)][:FIRST])

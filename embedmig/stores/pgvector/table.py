"""A space as a table of its own in PostgreSQL, typed to its dimensions: manifest and vectors in one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar, NamedTuple

from psycopg import errors as pg
from psycopg import sql

from embedmig.database import Connection, ident, literal, scalar
from embedmig.database.registry import Place, SpaceRecord
from embedmig.errors import PlaceMissing, VectorRefused
from embedmig.source import DOC_HASH, HAS_TEXT, Source, comma
from embedmig.source.rows import Key
from embedmig.source.sampling import by_hash
from embedmig.stores import aliases
from embedmig.stores.copy_format import copy_bytes, vectors
from embedmig.stores.manifest import Drawn
from embedmig.stores.manifest_table import OFFSETS, ManifestTable, refuse_taken_names, table_name
from embedmig.stores.pgvector import extension, index
from embedmig.stores.pgvector.hnsw import LIMIT, IndexEncoding, encoding_of
from embedmig.stores.pgvector.search import Shown, nearest, shown
from embedmig.stores.protocol import Batch, Capabilities, IndexBuild, IndexOptions, IndexState
from embedmig.types import MAX_DIMENSIONS, Hit, Space, Storage

SHOWN = ("chunk", "version", "embedding", *OFFSETS)  # by the alias


class TablePlace(NamedTuple):
    """A :data:`Place` as this store understands it."""

    schema: str
    table: str
    embedding: str
    version: str

    @property
    def relation(self) -> sql.Identifier:
        """The table that holds the vectors."""
        return ident(self.schema, self.table)


def vector_type(space: Space) -> sql.SQL:
    """``vector(256)`` or ``halfvec(256)``."""
    return literal(f"{space.storage}({space.dimensions})")


class PgvectorStore(ManifestTable):
    """One space's table: a manifest that holds the vectors too, and the :class:`VectorStore` of those."""

    value: ClassVar[str] = "embedding"

    capabilities: ClassVar[Capabilities] = Capabilities(
        dimensions=max(MAX_DIMENSIONS.values()),
        indexed_dimensions=max(LIMIT.values()),
        metrics=frozenset(("cosine", "l2", "ip")),
        filters=True,
        alias=True,
        same_transaction=True,
        half_precision=True,
    )

    def __init__(self, source: Source, record: SpaceRecord, table: sql.Identifier | None = None) -> None:
        self.place = TablePlace(*record.place)
        super().__init__(source, record, table or self.place.relation)
        self.storage: Storage = "halfvec" if record.rounded else self.space.storage  # of the column, as it is
        # A model in half precision rounds each component by up to 2⁻¹¹ = 4.9e-4 of itself, and so the norm; stored in
        # half precision it is rounded once more.
        self.norm_tolerance = 1e-3 if self.storage == "vector" else 2e-3

    # --- the table

    @staticmethod
    def new_place(space: Space, fingerprint: str, schema: str) -> Place:
        """A table in embedmig's own schema."""
        return TablePlace(schema, table_name(space, fingerprint), "embedding", "version")

    @staticmethod
    def check_server(conn: Connection, *, looking: bool = False) -> None:
        """pgvector must be there, or to be had."""
        extension.check(conn, looking=looking)

    @staticmethod
    def server_sql(conn: Connection) -> list[sql.SQL]:
        """The extension."""
        return extension.create_sql(conn)

    @staticmethod
    def check_source(source: Source) -> None:
        """A key column can't have the name of a column of the table's own, nor a column that the alias shows of its own."""
        refuse_taken_names(source, PgvectorStore.value)

    @property
    def name(self) -> str:
        """The version, which the alias view says of each of its rows."""
        return self.record.version

    def create(self, conn: Connection) -> None:
        """The extension where it is not there yet, and the table. A table of the same name must be the same."""
        extension.create(conn)
        conn.execute(self.create_sql())
        made = scalar(
            conn,
            "select format_type(atttypid, atttypmod) from pg_attribute where attrelid = to_regclass(%s) and attname = %s",
            (self.place.relation.as_string(conn), self.place.embedding),
        )
        if made.split(".")[-1] != self.value_type.as_string(conn):
            raise VectorRefused(
                f"{'.'.join(self.place[:2])} is there already and holds {made}, not {self.space.dimensions} dimensions",
                hint="choose another version for the new space",
            )

    def drop(self, conn: Connection) -> None:
        """Drops the table."""
        conn.execute(self.drop_sql())

    def disk_bytes(self, conn: Connection, vectors: int) -> int:
        """What the table takes on disk, indexes included."""
        return int(
            scalar(conn, "select coalesce(pg_total_relation_size(to_regclass(%s)), 0)", (self.table.as_string(conn),))
        )

    def count(self, conn: Connection) -> int:
        """One scan of the table."""
        with refusals(self.space):
            return int(scalar(conn, sql.SQL("select count(*) from {}").format(self.table)))

    @property
    def value_type(self) -> sql.SQL:
        """``vector(256)`` or ``halfvec(256)``."""
        return literal(f"{self.storage}({self.space.dimensions})")

    def value_shown(self) -> sql.Composed:
        """Cast to the bare type that the space says, so that the view can be replaced by one of another dimension, and shows a
        version that was compacted as it did before.
        """
        return sql.SQL("e.embedding::{} as embedding").format(literal(self.space.storage))

    def copy_bytes(self, conn: Connection, batches: Sequence[Batch]) -> bytes:
        """With the vectors in the type of the column."""
        return copy_bytes(batches, vectors(batches, self.storage), conn.info.encoding)

    def value_read(self) -> sql.Composed:
        """As an array, which the driver reads."""
        return sql.SQL("e.embedding::real[]").format()

    def vectors_of(self, conn: Connection, values: Sequence[Any]) -> Sequence[Sequence[float] | None]:
        """They are the vectors."""
        return values

    # --- points

    def upsert(self, conn: Connection, batch: Batch) -> int:
        """What :meth:`write` does with one batch, in a transaction of its own or in the caller's.

        A row that the source does not have, or has with another text by now, is not taken.
        """
        with refusals(self.space), conn.transaction():
            self.prepare_writer(conn)
            return self._put(conn, [batch], first=False)

    def id_of(self, key: Key, chunk: int, content_hash: bytes) -> str:
        """Of what the table has of each vector: it is found by its key, and says its text."""
        return json.dumps([*key, chunk, content_hash.hex()], ensure_ascii=False)

    def list_ids(self, conn: Connection) -> Iterator[str]:
        """One snapshot of the table, read a part at a time."""
        query = sql.SQL("select {}, e.chunk, e.content_hash from {}").format(self.source.key_text("e"), self._stored())
        with refusals(self.space), conn.transaction(), conn.cursor(name="embedmig_ids") as cursor:
            for key, chunk, content_hash in cursor.execute(query):
                yield self.id_of(tuple(key), chunk, content_hash)

    def delete(self, conn: Connection, ids: Sequence[str]) -> None:
        """One statement."""
        with refusals(self.space):
            conn.execute(sql.SQL("delete from {} e using {}").format(self.table, self._points(ids)))

    def fetch(self, conn: Connection, ids: Sequence[str]) -> Mapping[str, Sequence[float]]:
        """One statement."""
        query = sql.SQL("select {}, e.chunk, e.content_hash, e.embedding::real[] from {}, {}").format(
            self.source.key_text("e"), self._stored(), self._points(ids)
        )
        with refusals(self.space):
            return {self.id_of(tuple(row[0]), row[1], row[2]): row[3] for row in conn.execute(query)}

    def _stored(self) -> sql.Composed:
        """Where the points are, as a relation ``e``."""
        return sql.SQL("{} e").format(self.table)

    def _points(self, ids: Sequence[str]) -> sql.Composed:
        """The points as a relation ``p``, joined to the table ``e``."""
        columns = list(zip(*map(json.loads, ids), strict=True)) or [()] * (len(self.source.key) + 2)
        names = [*(ident(f"k{n}") for n in range(1, len(columns) - 1)), ident("chunk"), ident("digest")]
        arrays = comma(
            sql.SQL("{}::text[]").format(sql.Literal([str(value) for value in column])) for column in columns
        )
        keys = [
            sql.SQL("{} {} {}::{}").format(
                ident("e", column.name), column.operator("="), ident("p", f"k{n}"), literal(column.qualified)
            )
            for n, column in enumerate(self.source.key, 1)
        ]
        return sql.SQL(
            "unnest({}) p({}) where {} and e.chunk = p.chunk::int and e.content_hash = decode(p.digest, 'hex')"
        ).format(arrays, comma(names), sql.SQL(" and ").join(keys))  # fmt: skip

    # --- reading

    def search(
        self, conn: Connection, vector: Sequence[float], k: int, *, where: Mapping[str, Any] | None = None, exact: bool = False
    ) -> list[Hit]:  # fmt: skip
        """Through the index, or over all vectors, as the alias view would."""
        with refusals(self.space):
            return nearest(conn, self.shown(conn), vector, k, where=where, exact=exact)

    def shown(self, conn: Connection) -> Shown:
        """What the alias would show, whatever it shows."""
        relation = sql.SQL("({}) as shown").format(self.view())
        return shown(conn, relation, self.space, self.record.version, self.form(conn))

    def form(self, conn: Connection) -> IndexEncoding | None:
        """The stand-in that the index holds; None: the vectors themselves."""
        return encoding_of(conn, self.place.relation)

    def alias(self, conn: Connection) -> str | None:
        """The version that the view says of each of its rows."""
        return aliases.version_shown(conn, self.source)

    def set_alias(self, conn: Connection) -> None:
        """Replaces the view: nobody sees it before the transaction ends."""
        with refusals(self.space):
            aliases.put_view(conn, self.source, self)

    # --- the index

    @staticmethod
    def describe_index(space: Space, options: IndexOptions) -> str:
        """The graph's parameters, and what it holds of each vector where that is not the vector itself."""
        return index.describe(space, options)

    @staticmethod
    def check_index(space: Space, options: IndexOptions) -> None:
        """What pgvector's HNSW can hold."""
        index.check(space, options)

    @staticmethod
    def index_over_limit(space: Space, options: IndexOptions) -> tuple[str, str] | None:
        """By the type that the index holds."""
        return index.over_limit(space, options)

    def index_sql(self, options: IndexOptions) -> list[sql.Composable]:
        """The index, and what readers are told of it."""
        read, options = index.may_be_read(self.record), self._held(options)
        return [
            index.create(self.place, self.space, options, concurrently=read),
            index.comment(self.place, self.space, index.encoding(self.space, options)),
        ]

    def build_index(self, conn: Connection, options: IndexOptions, build: IndexBuild) -> str:
        """In a session of its own; nobody waits for it where somebody reads the space."""
        with refusals(self.space):
            return index.Builder(conn, self.record, self.place, self._held(options), build).run()

    def _held(self, options: IndexOptions) -> IndexOptions:
        """Vectors that were rounded can be held in half precision, exactly, and no otherwise."""
        if not self.record.rounded or options.storage not in (None, "vector"):
            return options
        return replace(options, storage="halfvec", rerank=1)

    def index_state(self, conn: Connection) -> IndexState:
        """The best state among the forms that the index may have: one that is valid is enough."""
        return index.best_state(conn, self.place, self.space)

    def indexes_on_write(self, conn: Connection) -> bool:
        """Once there is one."""
        return self.index_state(conn) == "valid"

    def seconds_since_read(self, conn: Connection) -> float | None:
        """By the last scan of the index, which PostgreSQL notes since version 16."""
        return index.seconds_since_read(conn, self.place, self.record.state_since)

    # --- what an audit asks

    def measured(self, conn: Connection) -> sql.Composed:
        """Every vector of the table that the space is in, as a relation ``r``: ``key text[], version, dims, norm``."""
        embedding = ident("e", self.place.embedding)
        return sql.SQL(
            """(select {key} as key, {version} as version, vector_dims({embedding}) as dims,
                  vector_norm({embedding}::vector) as norm from {table} e where {embedding} is not null) r"""
        ).format(
            key=self.source.key_text("e"), version=ident("e", self.place.version), embedding=embedding,
            table=self.place.relation,
        )  # fmt: skip

    def draw(self, conn: Connection, size: int, seed: int) -> Sequence[Drawn]:
        """One query."""
        return [Drawn(*row) for row in conn.execute(self._drawn(size, seed))]

    def _drawn(self, size: int, seed: int) -> sql.Composed:
        order = by_hash(sql.SQL("({}::text || e.chunk)").format(self.source.key_text("e")), seed)
        piece = sql.SQL("e.chunk_start, e.chunk_end" if self.space.chunk else "0, null::int")
        return sql.SQL(
            """select {key}, s.embedmig_doc, {piece}, e.embedding::real[]
               from (select * from {table} e order by {order} limit {size}) e
               join {rows} s on {join} where {has_text} and {hash} = e.content_hash"""
        ).format(
            key=self.source.key_text("e"), piece=piece, table=self.table, order=order, size=sql.Literal(size),
            rows=self.source.rows(), join=self.source.join("s", "e"), has_text=HAS_TEXT, hash=DOC_HASH,
        )  # fmt: skip


@contextmanager
def refusals(space: Space) -> Iterator[None]:
    """Says in the words of the protocol what PostgreSQL says of a table that is not there, or of a vector that can't be."""
    try:
        yield
    except pg.UndefinedTable as error:
        raise PlaceMissing(
            f"the table of {space.tag} is not there",
            hint="restore it, or embed the collection again under a new version",
        ) from error
    except pg.DataException as error:
        raise VectorRefused(f"{space.tag}: {error.diag.message_primary}") from error

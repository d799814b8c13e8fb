"""A manifest as a table: the source's key, chunk and content hash, and one value a row, which a store decides on.

For pgvector the value is the vector itself, for a store beside PostgreSQL the id of the point that holds it.
"""

from __future__ import annotations

import hashlib
import re
from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from psycopg import sql

from embedmig.database import Connection, ident, literal
from embedmig.errors import PlanError
from embedmig.source import DOC_HASH, Source, comma
from embedmig.source.rows import Key
from embedmig.stores.manifest import Manifest
from embedmig.stores.protocol import Batch
from embedmig.types import Space

OFFSETS = ("chunk_start", "chunk_end")
"""The columns of the alias that say where a chunk lies in its row's text, in characters; NULL where texts are not cut."""
OWN = ("chunk", "version", "content_hash", "embedded_at", "chunk_count", "chunk_start", "chunk_end")


def table_name(space: Space, fingerprint: str) -> str:
    """A name within PostgreSQL's 63 bytes that tells the space and can't collide with another's."""
    slug = re.sub(r"[^a-z0-9]+", "_", f"{space.collection} {space.name} {space.version} {space.dimensions}".lower())
    unique = hashlib.sha256(f"{space.collection}\0{space.tag}\0{fingerprint}".encode()).hexdigest()[:8]
    return f"{slug.strip('_')[:52]}_{unique}"


def refuse_taken_names(source: Source, value: str) -> None:
    """A key column can't have the name of a column of the table's own, nor a column that the alias shows of its own. Raises
    :class:`PlanError`.
    """
    own, shown = (*OWN, value), ("chunk", "version", value, *OFFSETS)
    taken = [column.name for column in source.key if column.name in own]
    if taken:
        raise PlanError(
            f"key column {taken[0]!r} of {source.collection.table} has a name that spaces use themselves",
            hint=f"rename it in the table; spaces have {', '.join(own)}",
        )
    taken = [column.name for column in source.columns if column.name in shown]
    if taken:
        raise PlanError(
            f"columns: {taken[0]!r} of {source.collection.table} has the name of a column that the alias has itself",
            hint=f"rename it in the table, or leave it out of columns; the alias has {', '.join(shown)}",
        )


class ManifestTable(Manifest):
    """``value`` is the name of the column that a store decides on, ``unique`` whether no two rows have the same; ``incoming`` is
    the temporary table that batches are copied into.
    """

    value: ClassVar[str]
    unique: ClassVar[bool] = False
    incoming: ClassVar[str] = "embedmig_batch"

    @property
    @abstractmethod
    def value_type(self) -> sql.SQL:
        """Of the column :attr:`value`."""

    @abstractmethod
    def value_shown(self) -> sql.Composed:
        """What the alias shows of it, over a row ``e``."""

    @abstractmethod
    def copy_bytes(self, conn: Connection, batches: Sequence[Batch]) -> bytes:
        """The batches as binary COPY."""

    # --- the table

    def create_sql(self) -> sql.Composed:
        """The space's table. No foreign key to the source: dropping it would lock the source out."""
        keys = comma(
            sql.SQL("{} {} not null").format(ident(column.name), literal(column.declaration))
            for column in self.source.key
        )
        pieces = sql.SQL(", chunk_count int not null, chunk_start int not null, chunk_end int not null")
        return sql.SQL(
            """create table if not exists {table} (
                 {keys},
                 chunk int not null default 0,
                 version text not null default {tag} check (version = {tag}),
                 content_hash bytea not null,
                 {value} {type} not null{unique},
                 embedded_at timestamptz not null default now(){pieces},
                 primary key ({key}, chunk)
               )"""
        ).format(
            table=self.table, keys=keys, tag=sql.Literal(self.space.tag), value=ident(self.value), type=self.value_type,
            unique=sql.SQL(" unique" if self.unique else ""),
            pieces=pieces if self.space.chunk else sql.SQL(""), key=self.source.key_columns,
        )  # fmt: skip

    def drop_sql(self) -> sql.Composed:
        """The statement that drops the table."""
        return sql.SQL("drop table if exists {}").format(self.table)

    # --- writing

    def prepare_writer(self, conn: Connection) -> None:
        """Once a writing connection: the table that batches are copied into, and a planner that looks rows up by key.

        Vectors stay in its rows as long as a page holds them: out of line, each would be cut up, indexed and put together again
        on its way.
        """
        keys = comma(sql.SQL("{} text").format(ident(f"k{n}")) for n in range(1, len(self.source.key) + 1))
        conn.execute(
            sql.SQL(
                """create temp table if not exists {} (
                     {}, chunk int, content_hash bytea, chunk_count int, chunk_start int, chunk_end int, {} {}
                   ) with (toast_tuple_target = 8160) on commit delete rows"""
            ).format(ident(self.incoming), keys, ident(self.value), self.value_type)
        )
        conn.execute("set enable_hashjoin = off; set enable_mergejoin = off")

    def _put(self, conn: Connection, batches: Sequence[Batch], *, first: bool) -> int:
        """One COPY and one INSERT for all of them."""
        self._copy(conn, batches, first=first)
        if self.space.chunk:
            conn.execute(self.deleting(self._surplus()))
        return conn.execute(self._insert()).rowcount

    def _copy(self, conn: Connection, batches: Sequence[Batch], *, first: bool) -> None:
        """Has the temporary table hold these batches and nothing else."""
        if not first:
            conn.execute(sql.SQL("truncate {}").format(ident(self.incoming)))
        columns = [f"k{n}" for n in range(1, len(self.source.key) + 1)]
        columns += ["chunk", "content_hash", "chunk_count", "chunk_start", "chunk_end", self.value]
        query = sql.SQL("copy {} ({}) from stdin (format binary)").format(
            ident(self.incoming), comma(ident(column) for column in columns)
        )
        with conn.cursor() as cursor, cursor.copy(query) as copy:
            copy.write(self.copy_bytes(conn, batches))

    def _batch_keys(self) -> sql.Composed:
        """The batch with its keys in their own types, as ``b``."""
        keys = comma(
            sql.SQL("{}::{} as {}").format(ident(f"k{n}"), literal(column.qualified), ident(column.name))
            for n, column in enumerate(self.source.key, 1)
        )
        return sql.SQL("(select {}, chunk, content_hash, chunk_count, chunk_start, chunk_end, {} from {})").format(
            keys, ident(self.value), ident(self.incoming)
        )

    def _insert(self) -> sql.Composed:
        pieces = sql.SQL(", chunk_count, chunk_start, chunk_end") if self.space.chunk else sql.SQL("")
        update = sql.SQL(
            ", chunk_count = excluded.chunk_count, chunk_start = excluded.chunk_start, chunk_end = excluded.chunk_end"
        )
        return sql.SQL(
            """insert into {table} as e ({key}, chunk, content_hash, {value}{pieces})
               select {distinct} {source_key}, b.chunk, b.content_hash, b.{value}{pieces} from {batch} b join {rows} s on {join}
               where {hash} = b.content_hash
               on conflict ({key}, chunk) do update set content_hash = excluded.content_hash,
                 {value} = excluded.{value}, embedded_at = excluded.embedded_at{update}"""
        ).format(
            table=self.table, key=self.source.key_columns, pieces=pieces, source_key=self.source.key_of("s"),
            batch=self._batch_keys(), rows=self.source.rows(), join=self.source.join("b", "s"), hash=DOC_HASH,
            value=ident(self.value), update=update if self.space.chunk else sql.SQL(""), distinct=self._distinct(),
        )  # fmt: skip

    def _distinct(self) -> sql.Composable:
        """A row whose key was spelt in two ways is in the batch twice; most types have one spelling a value."""
        if all(column.one_spelling for column in self.source.key):
            return sql.SQL("")
        return sql.SQL("distinct on ({}, b.chunk)").format(self.source.key_of("s"))

    def _surplus(self) -> sql.Composed:
        """Deletes, of a text that got shorter and has fewer chunks, those past its end."""
        return sql.SQL("delete from {} e using {} b where {} and e.chunk >= b.chunk_count").format(
            self.table, self._batch_keys(), self.source.join("b", "e")
        )

    # --- reading

    def current_values(self, after: Key | None, upto: Key | None) -> sql.Composed:
        """Each row's text is hashed once, however many chunks it has: ``offset 0`` keeps the planner from doing it for each."""
        pieces = sql.SQL(", e.chunk_count, e.chunk_start, e.chunk_end") if self.space.chunk else sql.SQL("")
        return sql.SQL(
            """select {key}, e.chunk, e.content_hash, {value}{pieces}
               from (select {key}, {hash} as embedmig_digest from {rows} s where {bounds} offset 0) s
               join {table} e on {join} and {same_bounds} where e.content_hash = s.embedmig_digest"""
        ).format(
            key=self.source.key_of("s"), value=ident("e", self.value), pieces=pieces, hash=DOC_HASH, rows=self.source.rows(),
            bounds=self.between(after, upto), table=self.table, join=self.source.join("s", "e"),
            same_bounds=self.between(after, upto, "e"),
        )  # fmt: skip

    def view(self, order: Sequence[str] = ()) -> sql.Composed:
        """The alias view (DESIGN 3): the version as a constant that the planner folds, and an inner join so that a deleted row is
        gone at its commit.

        ``order`` is that of the columns in a view that it replaces.
        """
        hide = self.source.collection.stale == "hide"
        pinned = ident(self.record.ledger_schema, "pinned_text")
        return sql.SQL(
            """select {shown}, e.chunk, {tag}::text as version, {value}{extra}
               from {table} e join {rows} s on {join}{hide}"""
        ).format(
            shown=self.source.key_of("s"), tag=sql.Literal(self.space.tag), value=self.value_shown(), extra=self.following(order),
            table=self.table, rows=self.source.rows(text=hide, extra=self.source.columns, pinned=pinned), join=self.source.join("s", "e"),
            hide=sql.SQL(" where {} = e.content_hash").format(DOC_HASH) if hide else sql.SQL(""),
        )  # fmt: skip

    def following(self, order: Sequence[str]) -> sql.Composed:
        """What the view shows after the vector: the collection's columns, then the place of the chunk.

        The place is shown, as NULL, of texts that are not cut too: a flip between the two kinds of version leaves the view
        its columns. What ``order`` names comes first, in that order: ``CREATE OR REPLACE`` can only append.
        """
        place = "e.{}" if self.space.chunk else "null::int as {}"
        columns: dict[str, sql.Composable] = {column.name: ident("s", column.name) for column in self.source.columns}
        for name in OFFSETS:  # a view that shows a column of the application's under that name keeps it
            columns.setdefault(name, sql.SQL(place).format(ident(name)))
        names = sorted(columns, key=lambda name: order.index(name) if name in order else len(order))
        return sql.Composed([sql.SQL(", {}").format(columns[name]) for name in names])

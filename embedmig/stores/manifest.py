"""What PostgreSQL knows of a space, and every question of source against space: each is spelt here, once.

A manifest is a table with the source's key, the chunk and the content hash of each vector that is there. For a store
inside PostgreSQL the vectors are in the same table, and one statement writes both.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from psycopg import sql

from embedmig.database import Connection, ident, literal, scalar
from embedmig.database.cursors import escaped, fixed
from embedmig.database.registry import Registry, SpaceRecord
from embedmig.lazy import Later
from embedmig.source import DOC_HASH, HAS_TEXT, Column, Source, check_key_types, comma
from embedmig.source.rows import Key, Piece, Row
from embedmig.stores.key_relations import given_keys, key_parameters
from embedmig.stores.protocol import Batch

if TYPE_CHECKING:
    import numpy as np

    from embedmig.stores.pgvector.search import Shown
else:
    np = Later("numpy")

TURN_CLASS = 0x656D6273  # "embs"; the second half of the lock's key is the space's number


@dataclass(frozen=True, slots=True)
class SpaceCounts:
    """What a space holds against its source.

    ``complete`` are eligible rows whose every chunk is there with the current content hash (by presence alone where
    ``hash_known`` is false, as for adopted vectors); ``failed`` are eligible rows dead-lettered at their current
    content; ``orphans`` are rows with vectors but without an eligible source row; ``blank`` rows have no text and are
    not eligible; ``untagged`` are vectors that carry no version.
    """

    eligible: int
    complete: int
    vectors: int
    blank: int = 0
    failed: int = 0
    orphans: int = 0
    untagged: int = 0
    hash_known: bool = True

    @property
    def completeness(self) -> float:
        """Share of eligible rows that are complete; 1.0 where there is nothing to do."""
        return self.complete / self.eligible if self.eligible else 1.0

    @property
    def missing(self) -> int:
        """Eligible rows that are not complete."""
        return self.eligible - self.complete


class Drawn(NamedTuple):
    """A vector, ``(dimensions,)``, the text of its row, and where in it the piece begins and ends; None: at its end."""

    key: Sequence[str]
    text: str
    start: int
    end: int | None
    vector: Sequence[float]


@dataclass(frozen=True, slots=True)
class Listing:
    """What a store lists against the manifest: points that are ``missing`` although they are named, and ``unknown`` ones that are
    there although they are not. ``problem`` says why that can't be told.
    """

    missing: int = 0
    unknown: int = 0
    problem: str = ""


class Manifest(ABC):
    """One space's. Conditions are SQL over a row ``s`` of :meth:`rows` or a row ``e`` of :attr:`table`."""

    def __init__(self, source: Source, record: SpaceRecord, table: sql.Identifier) -> None:
        self.source = source.reading(record.text_columns)
        self.record = record
        self.space = record.space
        self.table = table
        self.registry = Registry(record.ledger_schema)

    # --- conditions

    def rows(self, *, text: bool = True, extra: Sequence[Column] = ()) -> sql.Composed:
        """The eligible rows of the source, as :meth:`Source.rows` has them, with :attr:`own_columns`."""
        own = [column for column in self.own_columns if column.name not in {one.name for one in extra}]
        return self.source.rows(text=text, extra=(*extra, *own))

    @property
    def own_columns(self) -> tuple[Column, ...]:
        """What the conditions want of the source beside its key and text."""
        return ()

    @property
    def tables(self) -> tuple[sql.Identifier, ...]:
        """The tables that are read to compare space and source."""
        return (self.source.relation, self.table)

    def present(self, *, current: bool = True) -> sql.Composable:
        """Whether row ``s`` is here, every chunk of it; with its content hash as it is now unless ``current`` is false."""
        conditions = [self.source.join("e", "s"), sql.SQL("e.chunk = 0")]
        if current:
            conditions.append(sql.SQL("e.content_hash = {}").format(DOC_HASH))
        if self.space.chunk:
            whole = "e.chunk_count = (select count(*) from {} c where {} and c.content_hash = e.content_hash)"
            conditions.append(sql.SQL(whole).format(self.table, self.source.join("c", "e")))
        return sql.SQL("exists (select from {} e where {})").format(self.table, sql.SQL(" and ").join(conditions))

    def passage(self, conn: Connection, key: Key, chunk: int) -> str | None:
        """The text that a vector was made of: a chunk, or the row's text as it is now where texts are not cut.

        None where the row is not eligible any more, or where it was edited since it was cut: the offsets are of a text that
        is gone. Wants SELECT on the source and, of a chunked space, on its table.
        """
        whose = comma(
            sql.SQL("{}::{} as {}").format(sql.Literal(value), literal(column.qualified), ident(column.name))
            for value, column in zip(key, self.source.key, strict=True)
        )
        text, piece = sql.SQL("s.embedmig_doc"), sql.Composed([])
        if self.space.chunk:
            text = sql.SQL("substring(s.embedmig_doc from e.chunk_start + 1 for e.chunk_end - e.chunk_start)")
            piece = sql.SQL(" join {} e on {} and e.chunk = {} and e.content_hash = {}").format(
                self.table, self.source.join("s", "e"), sql.Literal(chunk), DOC_HASH
            )  # fmt: skip
        rows = self.source.rows(pinned=ident(self.record.ledger_schema, "pinned_text"))
        query = sql.SQL("select {} from (select {}) k join {} s on {}{}")
        found = scalar(conn, query.format(text, whose, rows, self.source.join("k", "s"), piece))
        return None if found is None else str(found)

    def held(self) -> sql.Composable:
        """As :meth:`present`, for those who count: by what the rows say, where hashes are known of some alone."""
        return self.present()

    def refused(self, *, current: bool = True) -> sql.Composed:
        """Whether row ``s`` is dead-lettered, with its content as it is now unless ``current`` is false."""
        now = sql.SQL(" and f.content_hash = {}").format(DOC_HASH) if current else sql.SQL("")
        return sql.SQL("exists (select from {} f where f.space = {} and f.key = {}{})").format(
            self.registry.failed_table, sql.Literal(self.record.id), self.source.key_text("s"), now
        )

    def lacking(self, *, current: bool = True) -> sql.Composed:
        """Whether row ``s`` wants a vector: it has a text, is not here as it is now, and the model has not refused it."""
        return sql.SQL("({} and not {} and not {})").format(
            HAS_TEXT, self.present(current=current), self.refused(current=current)
        )

    def batched(self) -> sql.Composed:
        """Whether row ``s`` is in a batch at the API."""
        return sql.SQL("exists (select from {} b where b.space = {} and b.key = {})").format(
            self.registry.batch_rows_table, sql.Literal(self.record.id), self.source.key_text("s")
        )

    def _repeated(self) -> sql.Composed:
        """Whether row ``s`` will get the vector of another row, which has the same text: see :mod:`embedmig.stores.repeats`."""
        return sql.SQL("exists (select from {} r where r.space = {} and r.content_hash = {} and r.key <> {})").format(
            self.registry.repeats_table, sql.Literal(self.record.id), DOC_HASH, self.source.key_text("s")
        )

    def untagged(self) -> sql.Composable:
        """Whether row ``s`` has a vector that carries no version."""
        return sql.SQL("false")

    def orphaned(self) -> sql.Composed:
        """Whether row ``e`` has no eligible row in the source."""
        return sql.SQL("not exists (select from {} s where {} and {})").format(
            self.source.rows(), self.source.join("s", "e"), HAS_TEXT
        )

    def stale(self) -> sql.Composed:
        """Whether row ``e`` is of another text than its row has now."""
        return sql.SQL("exists (select from {} s where {} and {} and {} <> e.content_hash)").format(
            self.source.rows(), self.source.join("s", "e"), HAS_TEXT, DOC_HASH
        )

    # --- keys: queries that give ``key text[]``

    def missing_keys(self, waiting: sql.Composable, *, current: bool = True) -> sql.Composed:
        """Rows that are :meth:`lacking` although no change ``waiting`` (a query over ``key``) stands for them."""
        return sql.SQL(
            """select {key} as key from {rows} s where {lacking}
                 and not exists (select from ({waiting}) u where u.key = {key})"""
        ).format(
            key=self.source.key_text("s"), rows=self.rows(), lacking=self.lacking(current=current), waiting=waiting
        )

    def settled_keys(self, condition: sql.Composable, waiting: sql.Composable) -> sql.Composed:
        """Rows ``e`` that meet a condition and that no change ``waiting`` stands for, nor a TRUNCATE."""
        return sql.SQL(
            """select {key} as key from {table} e where e.chunk = 0 and {condition}
                 and not exists (select from ({waiting}) u where u.key = {key})
                 and not exists (select from ({waiting}) u where u.key[1] is null)"""
        ).format(key=self.source.key_text("e"), table=self.table, condition=condition, waiting=waiting)

    # --- some rows

    def given_keys(self, *, current: bool = False) -> sql.Composed:
        """Keys that are parameters as a relation; with ``current``, those whose rows want no vector."""
        keys = given_keys(self.source.key)
        if not current:
            return keys
        return sql.SQL("(select * from {} k where not exists (select from {} s where {} and {}))").format(
            keys, self._rows_for_readers(), self.source.join("k", "s"), self.lacking()
        )

    def _rows_for_readers(self) -> sql.SQL:
        """The source with its texts, the same in every session; in a query with placeholders."""
        pinned = ident(self.record.ledger_schema, "pinned_text")
        return escaped(self.source.rows(extra=self.own_columns, pinned=pinned))

    def lacking_among(self, conn: Connection, keys: Sequence[Key]) -> dict[Key, bool]:
        """Which of these rows want a vector, and whether each is in a batch at the API. The same in every session."""
        found = conn.execute(self._lacking_query, key_parameters(keys)) if keys else ()
        return {tuple(key): batched for key, batched in found}

    @cached_property
    def _lacking_query(self) -> sql.SQL:
        query = sql.SQL("select k.embedmig_key, {batched} from {keys} k join {rows} s on {join} where {lacking}")
        return fixed(
            query.format(
                batched=self.batched(), keys=given_keys(self.source.key), rows=self._rows_for_readers(), join=self.source.join("k", "s"),
                lacking=self.lacking(),
            )
        )  # fmt: skip

    # --- answers

    def check_key(self, conn: Connection) -> None:
        """Refuses a source whose key is no longer of the type that the space has. Raises :class:`SourceError`."""
        check_key_types(conn, self.source, self.table, self.space.tag)

    def missing_page(self, conn: Connection, after: Key | None, upto: Key | None, limit: int) -> list[Row]:
        """The next rows without a current vector, in key order, between two keys (exclusive, inclusive).

        One short statement by keyset, so that memory stays flat and no cursor is held during a model call.
        """
        query = sql.SQL(
            """select {hash}, s.embedmig_doc, {key} from {rows} s
               where {lacking} and not {batched} and not {repeated} and {bounds} order by {order} limit {limit}"""
        ).format(
            hash=DOC_HASH, key=comma(sql.SQL("{}::text").format(ident("s", c.name)) for c in self.source.key),
            rows=self.source.rows(), lacking=self.lacking(), batched=self.batched(), repeated=self._repeated(),
            bounds=self.between(after, upto), order=self.source.key_of("s"), limit=sql.Literal(limit),
        )  # fmt: skip
        with conn.transaction():
            # Keyset paging wants the key's index whatever the statistics say: a sort would read the whole table a page.
            conn.execute(
                "set local enable_sort = off; set local enable_hashjoin = off; set local enable_mergejoin = off"
            )
            return [Row(tuple(row[2:]), row[1], row[0]) for row in conn.cursor(binary=True).execute(query)]

    def last_key(self, conn: Connection, after: Key | None = None) -> Key | None:
        """The upper end of the work, fixed when it starts, so that it is finite; None where nothing comes ``after``."""
        descending = sql.SQL(", ").join(sql.SQL("{} desc").format(ident("s", c.name)) for c in self.source.key)
        query = sql.SQL("select {} from {} s where {} order by {} limit 1").format(
            self.source.key_text("s"), self.source.rows(text=False), self._bound(">", after), descending
        )
        row = conn.execute(query).fetchone()
        return tuple(row[0]) if row else None

    def _bound(self, operator: Literal["<=", ">"], key: Key | None, alias: str = "s") -> sql.Composable:
        """Whether a row lies on that side of a key; true where there is none."""
        if key is None:
            return sql.SQL("true")
        array = sql.SQL("{}::text[]").format(sql.Literal(list(key)))
        return self.source.beyond(alias, operator, array)

    def between(self, after: Key | None, upto: Key | None, alias: str = "s") -> sql.Composed:
        """Whether a row lies between two keys, exclusive and inclusive."""
        return sql.SQL("{} and {}").format(self._bound(">", after, alias), self._bound("<=", upto, alias))

    @abstractmethod
    def current_values(self, after: Key | None, upto: Key | None) -> sql.Composed:
        """A query over what the space has of rows as they are now, between two keys (exclusive, inclusive): the key's columns,
        ``chunk``, ``content_hash``, the value that the store decides on, and the place of the chunk where texts are cut.
        """

    @abstractmethod
    def vectors_of(self, conn: Connection, values: Sequence[Any]) -> Sequence[Sequence[float] | None]:
        """The vectors of :meth:`current_values`, ``(dimensions,)`` each, in step with them; None for those that are not there."""

    def current_batch(self, conn: Connection, after: Key | None, upto: Key | None, but: Manifest) -> Batch:
        """What the space has of rows as they are now, between two keys (exclusive, inclusive), without those that ``but`` has as
        well; nor those of which a vector is lost. Texts are left out.
        """
        pieces = "e.chunk_count, e.chunk_start, e.chunk_end" if self.space.chunk else "1, 0, 0"
        query = sql.SQL(
            """select {hash}, e.chunk, {pieces}, {value}, {key} from ({current}) e
               where not exists (select from {table} n where {join} and n.chunk = e.chunk and n.content_hash = e.content_hash)
               order by {order}, e.chunk"""
        ).format(
            hash=sql.SQL("e.content_hash"), pieces=literal(pieces), value=self.value_read(),
            key=comma(sql.SQL("{}::text").format(ident("e", c.name)) for c in self.source.key),
            current=self.current_values(after, upto), table=but.table, join=self.source.join("n", "e"),
            order=self.source.key_of("e"),
        )  # fmt: skip
        return self.batch_of(conn, conn.cursor(binary=True).execute(query).fetchall())

    def batch_of(self, conn: Connection, found: Sequence[tuple[Any, ...]]) -> Batch:
        """Of rows with content hash, chunk, how many, its place, the value as :meth:`value_read` has it, and the key's parts; without
        those of which a vector is lost.
        """
        vectors = self.vectors_of(conn, [row[5] for row in found])
        lost = {row[6:] for row, vector in zip(found, vectors, strict=True) if vector is None}
        kept = [(row, vector) for row, vector in zip(found, vectors, strict=True) if row[6:] not in lost]
        return Batch(
            [Row(row[6:], "", row[0]) for row, _ in kept],
            [Piece(*row[1:5]) for row, _ in kept],
            np.array([vector for _, vector in kept], np.float32).reshape(len(kept), self.space.dimensions),
        )

    @abstractmethod
    def value_read(self) -> sql.Composed:
        """The value of a row ``e`` of :meth:`current_values`, as :meth:`vectors_of` wants it."""

    def page_end(self, conn: Connection, after: Key | None, upto: Key, size: int) -> Key | None:
        """The key of the ``size``-th row between two keys (exclusive, inclusive); None where there are fewer."""
        query = sql.SQL("select {} from {} s where {} order by {} offset {} limit 1").format(
            self.source.key_text("s"), self.source.rows(text=False), self.between(after, upto), self.source.key_of("s"),
            sql.Literal(size - 1),
        )  # fmt: skip
        row = conn.execute(query).fetchone()
        return tuple(row[0]) if row else None

    def counts(self, conn: Connection) -> SpaceCounts:
        """Compares the space with its source, exactly: one pass over both, joined by key."""
        held = (
            "count(*) as embedmig_chunks, max(e.chunk_count) as embedmig_wanted, "
            "array_agg(distinct e.content_hash) as embedmig_hashes"
            if self.space.chunk
            else "1::bigint as embedmig_chunks, 1 as embedmig_wanted, array[e.content_hash] as embedmig_hashes"
        )
        query = sql.SQL(
            """with held as (select {key}, {held} from {table} e {grouped}),
               wanting as (
                 select {source_key}, {has_text} as embedmig_has_text, case when {has_text} then {hash} end as embedmig_digest
                 from {rows} s)
               select count(*) filter (where s.embedmig_has_text),
                      count(*) filter (where s.embedmig_has_text and h.embedmig_hashes = array[s.embedmig_digest]
                                             and h.embedmig_chunks = h.embedmig_wanted),
                      coalesce(sum(h.embedmig_chunks), 0)::bigint,
                      count(*) filter (where not s.embedmig_has_text),
                      count(*) filter (where s.embedmig_has_text and f.content_hash = s.embedmig_digest),
                      count(*) filter (where s.embedmig_has_text is not true)
                        - count(*) filter (where not s.embedmig_has_text and h.embedmig_chunks is null)
               from wanting s full join held h on {join}
               left join {failed} f on f.space = {space} and f.key = {key_text}"""
        ).format(
            key=self.source.key_columns, source_key=self.source.key_of("s"), rows=self.source.rows(), table=self.table,
            held=sql.SQL(held), grouped=sql.SQL("group by {}").format(self.source.key_columns) if self.space.chunk else sql.SQL(""),
            has_text=HAS_TEXT, hash=DOC_HASH, failed=self.registry.failed_table, space=sql.Literal(self.record.id),
            key_text=self.source.key_text("s"), join=self.source.join("s", "h"),
        )  # fmt: skip
        row = conn.execute(query).fetchone()
        assert row is not None
        return SpaceCounts(
            eligible=row[0], complete=row[1], vectors=row[2], blank=row[3], failed=row[4], orphans=row[5]
        )

    # --- what others show of it

    @abstractmethod
    def view(self, order: Sequence[str] = ()) -> sql.Composed:
        """The query of the alias view that shows this space; its columns as far as can be in the ``order`` given."""

    @abstractmethod
    def shown(self, conn: Connection) -> Shown:
        """What the alias would show, whatever it shows."""

    @abstractmethod
    def create(self, conn: Connection) -> None:
        """Makes it, and the place for the vectors; nothing where they are there."""

    @abstractmethod
    def drop(self, conn: Connection) -> None:
        """Removes it with all vectors: the point of no return."""

    @abstractmethod
    def create_sql(self) -> sql.Composed:
        """What makes it."""

    @abstractmethod
    def drop_sql(self) -> sql.Composed:
        """What removes it."""

    # --- what an audit asks

    norm_tolerance: float
    """How far from 1 the norm of a stored unit vector may be."""

    @abstractmethod
    def measured(self, conn: Connection) -> sql.Composed:
        """Every vector of the place that the space is in, as a relation ``r``: ``key text[], version, dims, norm``."""

    @abstractmethod
    def draw(self, conn: Connection, size: int, seed: int) -> Sequence[Drawn]:
        """Vectors in the order of a hash of their key, beside the text they were made of. Of those with another content hash
        than the row's the text is gone.
        """

    def untagged_since_adoption(self, conn: Connection) -> str | None:
        """The version column of an adopted space whose rows were all tagged: what has none now was written since."""
        return None

    # --- writing

    def delete_orphans(self, conn: Connection, among: sql.Composable | None = None) -> int:
        """Removes vectors whose row is gone or no longer eligible, as of this very statement; returns how many.

        ``among`` is a relation ``c`` with the key's columns: only those are looked at.
        """
        using = sql.SQL(" using {}").format(among) if among else sql.SQL("")
        same = sql.SQL("{} and ").format(self.source.join("c", "e")) if among else sql.SQL("")
        query = sql.SQL("delete from {} e{} where {}{}").format(self.table, using, same, self.orphaned())
        return conn.execute(self.deleting(query)).rowcount

    def deleting(self, query: sql.Composed) -> sql.Composed:
        """A DELETE of rows ``e``, with what goes with it."""
        return query

    def wait_for_settling(self, conn: Connection, *, alone: bool) -> None:
        """Inside a transaction, before it looks at the data: who settles changes waits for batches that are being
        written, and they for it.

        The statement that writes a batch sees the source as it was when it began. Were a newer change of one of its
        rows taken in and settled meanwhile, the batch would put the older vector, or that of a deleted row, back,
        and nothing would be left that knows. Batches of a row copy settle nothing, so they don't wait for each other.
        """
        function = sql.SQL("pg_advisory_xact_lock" if alone else "pg_advisory_xact_lock_shared")
        conn.execute(sql.SQL("select {}(%s, %s)").format(function), (TURN_CLASS, self.record.id))

    def indexes_on_write(self, conn: Connection) -> bool:
        """Whether each vector goes into an index in the transaction that writes it, which takes a millisecond or more."""
        return False

    @abstractmethod
    def prepare_writer(self, conn: Connection) -> None:
        """Once a writing connection, before its first :meth:`write`."""

    def delivered(self, conn: Connection, batches: Sequence[Batch]) -> AbstractContextManager[None]:
        """Outside a transaction, before :meth:`write` and while it lasts: the vectors themselves are where they are kept."""
        return nullcontext()

    def collect(self, conn: Connection) -> int:
        """Outside a transaction: removes vectors that nothing names any more from where they are kept; returns how many."""
        return 0

    def finish_drop(self, conn: Connection) -> bool:
        """Once :meth:`drop` is committed: what is beside PostgreSQL goes; whether anything was there. Repeated, nothing."""
        return False

    def refresh(self, conn: Connection, keys: Sequence[Key]) -> None:  # noqa: B027  nothing is copied where all is in one place
        """Outside a transaction: has vectors say the columns of their rows as they are now."""

    # --- manifest against store

    def listing(self, conn: Connection) -> Listing | None:
        """Outside a transaction: compares it with what the store lists; None where the two are one."""
        return None

    def compare_counts(self, conn: Connection, named: int) -> Listing | None:
        """As :meth:`listing`, for a look: by the number of points alone, of which ``named`` should be there."""
        return None

    def reread(self, conn: Connection) -> int:
        """Outside a transaction: takes note of what others have written beside PostgreSQL; returns how many rows changed."""
        return 0

    def mend(self, conn: Connection) -> None:  # noqa: B027  nothing to mend where the two are one
        """Outside a transaction: takes out of the manifest what the store does not hold, and out of the store what the manifest
        does not name. Raises :class:`StoreError` where the store's listing can't be trusted.
        """

    def sweep(self, conn: Connection) -> None:  # noqa: B027  as above
        """The second half of :meth:`mend`, by the :meth:`listing` that was made last on this connection."""

    def write(self, conn: Connection, batches: Sequence[Batch], *, first: bool = True) -> int:
        """Inside a transaction, whose ``first`` it is or not: puts batches in; returns how many vectors were taken.

        A row whose text changed since it was read is not taken: its hash is checked in the statement that writes.
        """
        written = 0
        for some in without_repeats(batches):
            written, first = written + self._put(conn, some, first=first), False
        failures = [(row.key, row.content_hash, why) for batch in batches for row, why in batch.failures]
        if failures:
            self.registry.record_failures(conn, self.record.id, failures)
        return written

    @abstractmethod
    def _put(self, conn: Connection, batches: Sequence[Batch], *, first: bool) -> int:
        """One statement for batches that have no row twice; returns how many vectors were taken."""


def without_repeats(batches: Sequence[Batch]) -> Iterator[list[Batch]]:
    """The batches in their order, together as long as no row is in two of them: a statement inserts a row once."""
    some: list[Batch] = []
    seen: set[Key] = set()
    for batch in batches:
        keys = {row.key for row in batch.rows}
        if not seen.isdisjoint(keys):
            yield some
            some, seen = [], set()
        if keys:
            some.append(batch)
            seen |= keys
    if some:
        yield some

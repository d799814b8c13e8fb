"""What PostgreSQL knows of a space whose vectors are in a store beside it: for each vector the id of its point there.

A point is written in three steps, in this order (docs/decisions/0012): it is put into the store, outside any transaction, until
the store has acknowledged it; the manifest names it, in one transaction with all that goes with it; what it takes the place of is
deleted from the store. Whoever is killed in between leaves points that no row names: they are not shown, a listing finds them.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from psycopg import errors as pg
from psycopg import sql

from embedmig.database import Connection, first_line, ident, scalar
from embedmig.database.registry import SpaceRecord
from embedmig.errors import StoreError
from embedmig.source import DOC_HASH, HAS_TEXT, Source, comma
from embedmig.source.rows import Key
from embedmig.source.sampling import by_hash
from embedmig.stores.copy_format import copy_bytes, uuids
from embedmig.stores.external_search import shown_from_store
from embedmig.stores.key_relations import typed_keys
from embedmig.stores.kinds import open_external
from embedmig.stores.manifest import Drawn, Listing
from embedmig.stores.manifest_table import ManifestTable
from embedmig.stores.pgvector.search import Shown, reading
from embedmig.stores.protocol import Batch, pages, point_id
from embedmig.stores.store_alias import drop_vectors

if TYPE_CHECKING:
    from embedmig.stores.external import ExternalStore, Point

LISTED = sql.Identifier("embedmig_listed")  # a temporary table: the ids that the store has listed
MEASURED = sql.Identifier("embedmig_measured")
LISTINGS = 3  # while somebody writes, a listing and a count are of two moments
DELIVERY_CLASS = 0x656D6264  # "embd"; the second half of the lock's key is the space's number
COPIED = 50_000
COLLECTED = 1_000  # points that are deleted from the store at once
ROUNDS = 3  # columns that change all the time are left to the next change


class ExternalManifest(ManifestTable):
    """One space's."""

    value: ClassVar[str] = "point_id"
    unique: ClassVar[bool] = True
    incoming: ClassVar[str] = "embedmig_points"
    listed: ClassVar[sql.Identifier] = LISTED
    listed_columns: ClassVar[sql.SQL] = sql.SQL("point_id uuid")

    def __init__(self, source: Source, record: SpaceRecord) -> None:
        super().__init__(source, record, ident(*record.place[:2]))
        self.garbage = ident(record.ledger_schema, "garbage")

    @cached_property
    def store(self) -> ExternalStore:
        """Where the vectors are; nothing is asked of it before it is wanted."""
        return open_external(self.source, self.record)

    @property
    def value_type(self) -> sql.SQL:
        """Of a point's id."""
        return sql.SQL("uuid")

    def value_shown(self) -> sql.Composed:
        """A point's id: what a program that searches the store itself joins by."""
        return sql.SQL("e.point_id").format()

    def copy_bytes(self, conn: Connection, batches: Sequence[Batch]) -> bytes:
        """With the points' ids."""
        ids = [
            point_id(self.record.version, row.key, piece.chunk, row.content_hash)
            for batch in batches
            for row, piece in zip(batch.rows, batch.pieces, strict=True)
        ]
        return copy_bytes(batches, uuids(ids), conn.info.encoding)

    def value_read(self) -> sql.Composed:
        """A point's id."""
        return sql.SQL("e.point_id::text").format()

    def vectors_of(self, conn: Connection, values: Sequence[Any]) -> Sequence[Sequence[float] | None]:
        """Fetched from the store."""
        found: dict[str, Sequence[float]] = {}
        for ids in pages(values, COLLECTED):
            found |= self.store.fetch(conn, ids)
        return [found.get(one) for one in values]

    # --- the place

    def create(self, conn: Connection) -> None:
        """The collection, then the table."""
        self.store.create(conn)
        conn.execute(self.create_sql())

    def drop(self, conn: Connection) -> None:
        """What a transaction can take back; the table stays as the sign that the collection is still to go."""
        conn.execute(sql.SQL("delete from {} where space = %s").format(self.garbage), (self.record.id,))

    def finish_drop(self, conn: Connection) -> bool:
        """The collection, and then the table."""
        if scalar(conn, "select to_regclass(%s)", (self.table.as_string(conn),)) is None:
            return False
        drop_vectors(conn, self.store)
        conn.execute(self.drop_sql())
        return True

    # --- writing

    @contextmanager
    def delivered(self, conn: Connection, batches: Sequence[Batch]) -> Iterator[None]:
        """The points are in the store, and nothing is collected before the manifest names them or this is over."""
        with self._lock(conn, "pg_advisory_lock_shared", "pg_advisory_unlock_shared"):
            columns = self._columns_of(conn, list(dict.fromkeys(row.key for batch in batches for row in batch.rows)))
            points = {
                point.id: point for batch in batches if batch.pieces for point in self.store.points_of(batch, columns)
            }
            self.store.put_all(list(points.values()))
            self._correct(conn, points, columns)
            yield

    def _correct(self, conn: Connection, points: Mapping[str, Point], said: Mapping[Key, Mapping[str, Any]]) -> None:
        """Columns that changed while the points were put are put after them: whoever took the change in may have been before. What
        changes later is taken in later.
        """
        for _ in range(ROUNDS if said else 0):
            keys = list(dict.fromkeys(point.key for point in points.values()))
            now = self._columns_of(conn, keys)
            points = {
                one: point
                for one, point in points.items()
                if now.get(point.key, said.get(point.key)) != said.get(point.key)
            }
            if not points:
                return
            self.store.change_columns({one: now[point.key] for one, point in points.items()})
            said = now

    def _columns_of(self, conn: Connection, keys: Sequence[Key]) -> Mapping[Key, Mapping[str, Any]]:
        """What the points of these rows say beside their key, as the source has it now."""
        if not self.source.columns or not keys:
            return {}
        query = sql.SQL("select k.embedmig_key, {} from {} k join {} s on {}").format(
            self._columns(), typed_keys(self.source.key, keys), self.source.rows(text=False, extra=self.source.columns),
            self.source.join("k", "s"),
        )  # fmt: skip
        return {tuple(key): self._named(values) for key, *values in reading(conn).execute(query)}

    def _named(self, values: Sequence[Any]) -> dict[str, Any]:
        return dict(zip((column.name for column in self.source.columns), values, strict=True))

    def _columns(self) -> sql.Composed:
        return comma(ident("s", column.name) for column in self.source.columns)

    def refresh(self, conn: Connection, keys: Sequence[Key]) -> None:
        """Without a model call. They are read again after they were written, until they are the same: of several writers the last
        one has seen the row as it is.
        """
        if self.source.columns and keys:
            query = sql.SQL("select e.point_id::text, {} from {} k join {} e on {} join {} s on {}").format(
                self._columns(), typed_keys(self.source.key, keys), self.table, self.source.join("k", "e"),
                self.source.rows(text=False, extra=self.source.columns), self.source.join("e", "s"),
            )  # fmt: skip
            said: dict[str, dict[str, Any]] = {}
            for _ in range(ROUNDS):
                now = {one: self._named(values) for one, *values in reading(conn).execute(query)}
                changed = {one: columns for one, columns in now.items() if said.get(one) != columns}
                if not changed:
                    return
                self.store.change_columns(changed)
                said = now

    def _refresh_all(self, conn: Connection) -> None:
        """Of every point, a page at a time in the order of their ids: memory stays flat, and no snapshot is held meanwhile."""
        if not self.source.columns:
            return
        query = sql.SQL(
            """select e.point_id::text, {} from {} e join {} s on {}
               where e.point_id > %s::uuid order by e.point_id limit %s"""
        ).format(
            self._columns(), self.table, self.source.rows(text=False, extra=self.source.columns), self.source.join("e", "s")
        )  # fmt: skip
        last = str(uuid.UUID(int=0))
        while page := reading(conn).execute(query, (last, COLLECTED)).fetchall():
            self.store.change_columns({one: self._named(values) for one, *values in page})
            last = page[-1][0]

    def _put(self, conn: Connection, batches: Sequence[Batch], *, first: bool) -> int:
        """As for any table; points that are replaced, or that are not named because their row has changed, are garbage."""
        self._copy(conn, batches, first=first)
        conn.execute(self._discarding(self._replaced()))
        if self.space.chunk:
            conn.execute(self.deleting(self._surplus()))
        taken = conn.execute(self._insert()).rowcount
        conn.execute(self._discarding(self._refused()))
        return taken

    def _replaced(self) -> sql.Composed:
        return sql.SQL(
            "select e.point_id from {} e join {} b on {} and e.chunk = b.chunk where e.point_id <> b.point_id"
        ).format(self.table, self._batch_keys(), self.source.join("e", "b"))

    def _refused(self) -> sql.Composed:
        return sql.SQL(
            "select b.point_id from {} b where not exists (select from {} e where e.point_id = b.point_id)"
        ).format(ident(self.incoming), self.table)

    def deleting(self, query: sql.Composed) -> sql.Composed:
        """The points of what is deleted are garbage."""
        return self._discarding(
            sql.SQL("select point_id from gone"), sql.SQL("with gone as ({} returning e.point_id) ").format(query)
        )

    def _discarding(self, points: sql.Composable, before: sql.Composable | None = None) -> sql.Composed:
        """Has a query's points be looked at by :meth:`collect`, which deletes those that nothing names then."""
        return sql.SQL(
            """{before}insert into {garbage} as g (space, point_id) select distinct {space}::bigint, p.point_id from ({points}) p
               on conflict (space, point_id) do update set since = g.since"""
        ).format(
            before=before or sql.SQL(""), garbage=self.garbage, space=sql.Literal(self.record.id), points=points
        )  # fmt: skip

    # --- what nothing names

    def collect(self, conn: Connection) -> int:
        """Garbage is deleted from the store, then forgotten. While somebody writes, it is left to a later call."""
        deleted = 0
        if not self._garbage(conn, 1):
            return deleted
        with self._lock(conn, "pg_try_advisory_lock", "pg_advisory_unlock") as alone:
            while alone and (ids := self._garbage(conn, COLLECTED)):
                doomed = self._unnamed(conn, ids)
                self.store.delete(conn, doomed)
                deleted += len(doomed)
                query = sql.SQL("delete from {} where space = %s and point_id = any(%s::uuid[])").format(self.garbage)
                conn.execute(query, (self.record.id, ids))
        return deleted

    def _garbage(self, conn: Connection, limit: int) -> list[str]:
        query = sql.SQL("select point_id::text from {} where space = %s limit %s").format(self.garbage)
        return [row[0] for row in conn.execute(query, (self.record.id, limit))]

    def _unnamed(self, conn: Connection, ids: Sequence[str]) -> list[str]:
        """Those that the manifest does not name; nobody can be about to name them while nobody writes."""
        query = sql.SQL(
            "select u.one::text from unnest(%s::uuid[]) u(one) where not exists (select from {} e where e.point_id = u.one)"
        )
        return [row[0] for row in conn.execute(query.format(self.table), (list(ids),))]

    @contextmanager
    def _lock(self, conn: Connection, take: str, release: str) -> Iterator[bool]:
        """Writers share it, from the store's write to the commit that names it; who deletes has it alone. A session's lock: no
        transaction is open while a store is asked.
        """
        key = (DELIVERY_CLASS, self.record.id)
        got = scalar(conn, sql.SQL("select {}(%s, %s)").format(ident(take)), key)
        try:
            yield got is not False
        finally:
            if got is not False and not conn.closed:
                conn.execute(sql.SQL("select {}(%s, %s)").format(ident(release)), key)

    # --- manifest against store

    def listing(self, conn: Connection) -> Listing:
        """By ids: they say key, chunk and text. What was written since the listing began is left out of it."""
        began = scalar(conn, "select clock_timestamp()")
        try:
            if problem := self._list(conn):
                return Listing(problem=problem)
        except (pg.InsufficientPrivilege, pg.ReadOnlySqlTransaction) as error:
            return Listing(problem=f"the listing has no place to be kept in: {first_line(error)}")
        missing = int(
            scalar(conn, sql.SQL("select count(*) from {} e where {}").format(self.table, self._not_listed(began)))
        )
        return Listing(missing, len(self._unknown(conn)))

    def compare_counts(self, conn: Connection, named: int) -> Listing:
        """What is too much is left to a listing: somebody may be writing."""
        return Listing(max(0, named - self.store.count(conn)))

    def mend(self, conn: Connection) -> None:
        """Rows whose point is gone are forgotten, so that they are missing to all who ask; the points say their columns anew."""
        began = scalar(conn, "select clock_timestamp()")
        if problem := self._list(conn):
            raise StoreError(
                f"{self.record.version} can't be compared with its store: {problem}", hint="try again later"
            )
        conn.execute(sql.SQL("delete from {} e where {}").format(self.table, self._not_listed(began)))
        self.sweep(conn)
        self._refresh_all(conn)

    def sweep(self, conn: Connection) -> None:
        """In batches, while nobody writes."""
        for ids in pages(self._unknown(conn), COLLECTED):
            with self._lock(conn, "pg_advisory_lock", "pg_advisory_unlock"):
                self.store.delete(conn, self._unnamed(conn, ids))

    def _list(self, conn: Connection) -> str:
        """Has the temporary table hold what the store lists; or says why that is not all there is."""
        with conn.transaction():
            conn.execute("set transaction read write")
            conn.execute(sql.SQL("create temp table if not exists {} ({})").format(self.listed, self.listed_columns))
        listed, after = 0, 0
        for _ in range(LISTINGS):
            conn.execute(sql.SQL("delete from {}").format(self.listed))
            before = self.store.count(conn)
            listed = self._copy_listed(conn)
            after = self.store.count(conn)
            if min(before, after) <= listed <= max(before, after):
                return ""
        return f"the store lists {listed:,} points and counts {after:,}"

    def _copy_listed(self, conn: Connection) -> int:
        """Returns how many points there are."""
        listed = 0
        for ids in pages(self.store.list_ids(conn), COPIED):
            with conn.cursor() as cursor, cursor.copy(sql.SQL("copy {} from stdin").format(self.listed)) as copy:
                copy.write("".join(f"{one}\n" for one in ids))
            listed += len(ids)
        return listed

    def _not_listed(self, began: datetime) -> sql.Composed:
        """Rows ``e`` that were there when the listing began, and whose point is not in it."""
        return sql.SQL("e.embedded_at < {} and not exists (select from {} l where l.point_id = e.point_id)").format(
            sql.Literal(began), LISTED
        )

    def _unknown(self, conn: Connection) -> list[str]:
        """Points that were listed, are not named, are no garbage, and are still there when whoever was writing is through."""
        query = sql.SQL(
            """select l.point_id::text from {listed} l where not exists (select from {table} e where e.point_id = l.point_id)
                 and not exists (select from {garbage} g where g.space = {space} and g.point_id = l.point_id)"""
        ).format(listed=LISTED, table=self.table, garbage=self.garbage, space=sql.Literal(self.record.id))
        if conn.execute(query).fetchone() is None:
            return []
        with self._lock(conn, "pg_advisory_lock", "pg_advisory_unlock"):
            found = [row[0] for row in conn.execute(query)]
        return [one for ids in pages(found, COLLECTED) for one in self.store.fetch(conn, ids)]

    # --- what others show of it

    def shown(self, conn: Connection) -> Shown:
        """Over the manifest and the source, as the alias would."""
        relation = sql.SQL("({}) as shown").format(self.view())
        return shown_from_store(conn, relation, self.space, self.record.version, self.store)

    # --- what an audit asks

    norm_tolerance = 1e-3
    """A store keeps single precision; a model in half precision rounds each component by up to 2⁻¹¹ of itself."""

    def measured(self, conn: Connection) -> sql.Composed:
        """Every point is fetched, and what is to be known of it is written into a temporary table."""
        with conn.transaction():
            conn.execute("set transaction read write")
            conn.execute(
                sql.SQL("create temp table if not exists {} (key text[], version text, dims int, norm float8)").format(
                    MEASURED
                )
            )
        conn.execute(sql.SQL("delete from {}").format(MEASURED))
        for page in self.store.points_held():
            with conn.cursor() as cursor, cursor.copy(sql.SQL("copy {} from stdin").format(MEASURED)) as copy:
                for key, version, dimensions, norm in page:
                    copy.write_row((list(key), version, dimensions, norm))
        return sql.SQL("{} r").format(MEASURED)

    def draw(self, conn: Connection, size: int, seed: int) -> Sequence[Drawn]:
        """Keys and texts out of PostgreSQL, vectors out of the store."""
        order = by_hash(sql.SQL("({}::text || e.chunk)").format(self.source.key_text("e")), seed)
        piece = sql.SQL("e.chunk_start, e.chunk_end" if self.space.chunk else "0, null::int")
        query = sql.SQL(
            """select {key}, s.embedmig_doc, {piece}, e.point_id::text
               from (select * from {table} e order by {order} limit {size}) e
               join {rows} s on {join} where {has_text} and {hash} = e.content_hash"""
        ).format(
            key=self.source.key_text("e"), piece=piece, table=self.table, order=order, size=sql.Literal(size),
            rows=self.source.rows(), join=self.source.join("s", "e"), has_text=HAS_TEXT, hash=DOC_HASH,
        )  # fmt: skip
        rows = conn.execute(query).fetchall()
        vectors = self.store.fetch(conn, [row[4] for row in rows])
        return [Drawn(row[0], row[1], row[2], row[3], vectors[row[4]]) for row in rows if row[4] in vectors]

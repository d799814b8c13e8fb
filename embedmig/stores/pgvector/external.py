"""pgvector in another database than the texts': points in a table of their own there, the manifest with the texts.

The store's alias is a view beside the tables, for programs that read that database directly.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property, partial
from typing import Any, ClassVar

from psycopg import sql
from psycopg.types.json import Jsonb

from embedmig.config.settings import ConnectSettings, StoreSettings
from embedmig.database import Connection, Database, ident, in_one_go, literal, scalar
from embedmig.database.registry import SpaceRecord
from embedmig.errors import ConfigError, UsageError
from embedmig.source import Source
from embedmig.stores.aliases import CHANNEL, NOT_IN_PLACE, save_rights
from embedmig.stores.external import (
    CHUNK,
    HASH,
    KEY,
    VERSION,
    CollectionInfo,
    ExternalStore,
    Held,
    IndexStatus,
    Near,
    Point,
)
from embedmig.stores.pgvector import extension, index
from embedmig.stores.pgvector.external_sessions import session
from embedmig.stores.pgvector.hnsw import LIMIT, OPERATOR, IndexEncoding, encoding_of
from embedmig.stores.pgvector.points_copy import copy_bytes
from embedmig.stores.pgvector.table import TablePlace, vector_type
from embedmig.stores.protocol import Capabilities, IndexBuild, IndexOptions, IndexState
from embedmig.types import MAX_DIMENSIONS, Metric, Space

SCHEMA = "embedmig_vectors"
MARK = "embedmig "  # what the comment on a table begins with; the metric follows
PAGE = 10_000  # points of a listing
COLUMNS = sql.SQL("id, {}, {}, {}, {}, columns, embedding").format(*map(sql.Identifier, (KEY, CHUNK, HASH, VERSION)))
ITERATIVE = sql.SQL(
    """select set_config('hnsw.iterative_scan', 'strict_order', true) from pg_extension
       where extname = 'vector' and (split_part(extversion, '.', 1)::int, split_part(extversion, '.', 2)::int) >= (0, 8)"""
)


class ExternalPgvectorStore(ExternalStore):
    """One space in a table ``(id, key, chunk, hash, version, columns, embedding)``; ``columns`` is a JSON object."""

    kind: ClassVar[str] = "pgvector"
    extra: ClassVar[str] = ""
    adoptable: ClassVar[bool] = False
    capabilities: ClassVar[Capabilities] = Capabilities(
        dimensions=max(MAX_DIMENSIONS.values()), indexed_dimensions=max(LIMIT.values()),
        metrics=frozenset(("cosine", "l2", "ip")), filters=True, alias=True, same_transaction=False, half_precision=True,
    )  # fmt: skip
    options: ClassVar[frozenset[str]] = frozenset(("schema",))

    def __init__(self, source: Source, record: SpaceRecord, settings: StoreSettings) -> None:
        super().__init__(source, record, settings)
        if not settings.url:
            raise ConfigError(
                f"[stores.{settings.name}] has no url",
                hint='url = "env:VECTORS_URL": the address of the vectors\' database',
            )
        self.place = TablePlace(str(settings.options.get("schema", SCHEMA)), self.collection, "embedding", VERSION)
        self.table = self.place.relation
        self.database = Database(settings.url, self.place.schema)

    @contextmanager
    def session(self) -> Iterator[Connection]:
        """A session of this thread's, in which a statement may take the time of a request; its errors become embedmig's own."""
        limits = ConnectSettings(statement_timeout=f"{max(1, int(self.settings.timeout * 1000))}ms")
        with session(self.settings.name, replace(self.database, settings=limits)) as conn:
            yield conn

    @contextmanager
    def unlimited(self) -> Iterator[Connection]:
        """As :meth:`session`, inside a transaction whose statements take the time they take."""
        with self.session() as conn, conn.transaction():
            conn.execute("set local statement_timeout = 0")
            yield conn

    # --- the server and the collection

    def server_version(self) -> str:
        """PostgreSQL's. Raises :class:`DatabaseUnsuitable` where it has no pgvector, or one that is too old."""
        with self.session() as conn:
            extension.check(conn)
            return str(scalar(conn, "show server_version"))

    @staticmethod
    def collection_name(space: Space, unique: str) -> str:  # noqa: ARG004
        """A table's."""
        return unique

    def describe(self) -> CollectionInfo | None:
        """By the type of the column and the comment on the table."""
        query = """select atttypmod, obj_description(attrelid, 'pg_class') from pg_attribute
                   where attrelid = to_regclass(%s) and attname = 'embedding' and not attisdropped"""
        with self.session() as conn:
            found = conn.execute(query, (self.table.as_string(conn),)).fetchone()
        if found is None:
            return None
        metrics: dict[str, Metric] = {MARK + one: one for one in self.capabilities.metrics}
        return CollectionInfo(found[0], metrics.get(found[1] or "", self.space.metric))

    def create_collection(self) -> None:
        """With schema and extension, where they are not there."""
        with self.session() as conn, conn.transaction():
            if scalar(conn, "select to_regnamespace(%s)", (ident(self.place.schema).as_string(conn),)) is None:
                conn.execute(sql.SQL("create schema {}").format(ident(self.place.schema)))
            if scalar(conn, "select to_regclass(%s)", (self.table.as_string(conn),)) is None:
                extension.create(conn)
                conn.execute(
                    sql.SQL(
                        """create table {} (id uuid primary key, {} text[] not null, {} int not null, {} bytea not null,
                             {} text not null, columns jsonb not null, embedding {} not null)"""
                    ).format(self.table, *map(ident, (KEY, CHUNK, HASH, VERSION)), vector_type(self.space))
                )
                conn.execute(
                    sql.SQL("comment on table {} is {}").format(self.table, sql.Literal(MARK + self.space.metric))
                )

    def drop_collection(self) -> None:
        """The schema stays."""
        with self.session() as conn:
            conn.execute(sql.SQL("drop table if exists {}").format(self.table))

    # --- points

    def put(self, points: Sequence[Point]) -> None:
        """One COPY and one INSERT in a transaction. Of a point that is there, its columns alone can differ."""
        incoming = ident("embedmig_points")
        with self.session() as conn, conn.transaction():
            conn.execute(
                sql.SQL("create temp table if not exists {} (like {}) on commit drop").format(incoming, self.table)
            )
            with conn.cursor() as cursor, cursor.copy(sql.SQL("copy {} ({}) from stdin (format binary)").format(incoming, COLUMNS)) as copy:  # fmt: skip
                copy.write(copy_bytes(points, self.record.version, self.space.storage))
            conn.execute(
                sql.SQL(
                    """insert into {} as e ({}) select {} from {}
                       on conflict (id) do update set columns = excluded.columns where e.columns <> excluded.columns"""
                ).format(self.table, COLUMNS, COLUMNS, incoming)
            )

    def remove(self, ids: Sequence[str]) -> None:
        """By id."""
        with self.session() as conn:
            conn.execute(sql.SQL("delete from {} where id = any(%s::uuid[])").format(self.table), (list(ids),))

    def held(self, fields: Sequence[str] | None = ()) -> Iterator[Sequence[Held]]:
        """In the order of ids, with no snapshot held between two pages."""
        last = "00000000-0000-0000-0000-000000000000"
        while page := self.attempt(partial(self._page, last, fields)):
            yield page
            last = page[-1].id

    def _page(self, last: str, fields: Sequence[str] | None) -> list[Held]:
        said = sql.SQL("null") if fields is not None and not fields else sql.SQL(
            "columns || jsonb_build_object({}, {}, {}, {}, {}, encode({}, 'hex'), {}, {})"
        ).format(*(part for name in (KEY, CHUNK, HASH, VERSION) for part in (sql.Literal(name), ident(name))))  # fmt: skip
        query = sql.SQL("select id::text, {} from {} where id > %s order by id limit %s").format(said, self.table)
        with self.session() as conn:
            rows = conn.execute(query, (last, PAGE)).fetchall()
        return [
            Held(one, {name: value for name, value in (payload or {}).items() if fields is None or name in fields})
            for one, payload in rows
        ]

    def vectors(self, ids: Sequence[str]) -> Mapping[str, Sequence[float]]:
        """As single precision, whatever the column is."""
        query = sql.SQL("select id::text, embedding::vector::real[] from {} where id = any(%s::uuid[])")
        with self.session() as conn, conn.cursor(binary=True) as cursor:
            return dict(cursor.execute(query.format(self.table), (list(ids),)).fetchall())

    def near(self, vector: Sequence[float], limit: int, where: Mapping[str, Any], *, exact: bool) -> list[Near]:
        """Through the index. Where that gives fewer than ``limit``, every vector that meets the conditions is compared."""
        wanted, values = self._conditions(where)
        values |= {"vector": str(list(vector)), "limit": limit}
        form = None if exact else self.form
        with self.session() as conn, in_one_go(conn):
            if not exact:
                conn.execute(ITERATIVE)
                conn.execute(sql.SQL("set local hnsw.ef_search = {}").format(sql.Literal(max(40, min(limit, 1000)))))
            found = conn.execute(self._nearest(wanted, form, exact=exact), values).fetchall()
        if not exact and len(found) < limit:
            return self.near(vector, limit, where, exact=True)
        return [Near(row[0], tuple(row[1]), *row[2:]) for row in found]

    @cached_property
    def form(self) -> IndexEncoding | None:
        """The stand-in that the index holds; None: the vectors themselves. Readers ask anew when a build has told them."""
        with self.session() as conn:
            return encoding_of(conn, self.table)

    def _nearest(self, wanted: sql.Composable, form: IndexEncoding | None, *, exact: bool) -> sql.Composed:
        """By the vectors themselves; where the index has a smaller form of them, ranked out of its candidates."""
        bare = literal(self.space.storage)
        distance = sql.SQL("(embedding {} %(vector)s::{})").format(literal(OPERATOR[self.space.metric]), bare)
        relation: sql.Composable = self.table
        if form:
            quantized = [form.quantized(self.space, one) for one in (ident("embedding"), sql.Placeholder("vector"))]
            relation = sql.SQL("(select * from {} where {} order by {} {} {} limit %(limit)s * {}) candidates").format(
                self.table, wanted, quantized[0], form.operator(self.space), quantized[1], sql.Literal(form.rerank)
            )
        return sql.SQL(
            "select id::text, {}, {}, {}, {distance} from {} where {} order by {distance}{} limit %(limit)s"
        ).format(*map(ident, (KEY, CHUNK, HASH)), relation, wanted, sql.SQL(" + 0" if exact else ""), distance=distance)

    def _conditions(self, where: Mapping[str, Any]) -> tuple[sql.Composable, dict[str, Any]]:
        """SQL and its values. Raises :class:`UsageError` for a column that points don't have."""
        keys = [column.name for column in self.source.key]
        arrays = {column.name: column.type.endswith("[]") for column in self.source.columns}
        if unknown := [name for name in where if name not in keys and name not in arrays]:
            raise UsageError(f"there is no column {unknown[0]!r}", hint=f"there is {', '.join([*keys, *arrays])}")
        parts: list[sql.Composable] = []
        values: dict[str, Any] = {}
        for name, value in where.items():
            either: list[sql.Composable] = []
            for one in value if isinstance(value, list | tuple | set | frozenset) else [value]:
                given = f"w{len(values)}"
                if name in keys:
                    either.append(sql.SQL("{}[{}] = {}").format(ident(KEY), sql.Literal(keys.index(name) + 1), sql.Placeholder(given)))  # fmt: skip
                    values[given] = str(one).lower() if isinstance(one, bool) else str(one)
                elif one is None:
                    either.append(sql.SQL("columns -> {} is null").format(sql.Placeholder(given)))
                    values[given] = name
                else:
                    either.append(sql.SQL("columns @> {}").format(sql.Placeholder(given)))
                    values[given] = Jsonb({name: [one] if arrays[name] else one})
            parts.append(sql.SQL("({})").format(sql.SQL(" or ").join(either) if either else sql.SQL("false")))
        return sql.SQL(" and ").join(parts) if parts else sql.SQL("true"), values

    def total(self) -> int:
        """One scan."""
        with self.unlimited() as conn:
            return int(scalar(conn, sql.SQL("select count(*) from {}").format(self.table)))

    def set_columns(self, columns: Mapping[str, Mapping[str, Any]]) -> None:
        """One statement."""
        said = [Jsonb(dict(one)) for one in columns.values()]
        query = sql.SQL(
            "update {} e set columns = u.said from unnest(%s::uuid[], %s::jsonb[]) u(id, said) where e.id = u.id"
        )
        with self.session() as conn:
            conn.execute(query.format(self.table), (list(columns), said))

    def set_version(self, ids: Sequence[str], version: str) -> None:
        """One statement."""
        query = sql.SQL("update {} set {} = %s where id = any(%s::uuid[])").format(self.table, ident(VERSION))
        with self.session() as conn:
            conn.execute(query, (version, list(ids)))

    def size_bytes(self) -> int | None:
        """The table with its indexes."""
        with self.session() as conn:
            return int(
                scalar(conn, "select pg_total_relation_size(to_regclass(%s))", (self.table.as_string(conn),)) or 0
            )

    # --- the index

    @classmethod
    def describe_index(cls, space: Space, options: IndexOptions) -> str:
        """As beside the texts."""
        return index.describe(space, options)

    @classmethod
    def check_index(cls, space: Space, options: IndexOptions) -> None:
        """What pgvector's HNSW can hold."""
        index.check(space, options)

    @classmethod
    def index_over_limit(cls, space: Space, options: IndexOptions) -> tuple[str, str] | None:
        """By the type that the index holds."""
        return index.over_limit(space, options)

    def build_index(self, conn: Connection, options: IndexOptions, build: IndexBuild) -> str:
        """Watched, and built anew where it was stopped, as beside the texts; filters have an index too."""
        built = self.attempt(lambda: self._build(options, replace(build, database=self.database)))
        if conn is not None:  # a store by itself is given none
            conn.execute("select pg_notify(%s, %s)", (CHANNEL, self.record.collection))
        return built

    def _build(self, options: IndexOptions, build: IndexBuild) -> str:
        with session(self.settings.name, self.database) as conn:
            if self.source.columns:
                name = ident(f"{self.collection[:58]}_cols")
                query = "create index concurrently if not exists {} on {} using gin (columns jsonb_path_ops)"
                conn.execute(sql.SQL(query).format(name, self.table))
            built = index.Builder(conn, self.record, self.place, options, build).run()
        self.__dict__.pop("form", None)
        return built

    def start_index(self, options: IndexOptions) -> None:
        """It is there when this returns."""
        self._build(options, IndexBuild(self.database, lambda _: None, threading.Event(), lambda: None))

    def index_status(self) -> IndexStatus:
        """The best of its forms."""
        with self.session() as conn:
            return IndexStatus(index.best_state(conn, self.place, self.space))

    def index_state(self, conn: Connection) -> IndexState:
        """As the catalog has it."""
        return self.attempt(self.index_status).state

    def seconds_since_read(self, conn: Connection) -> float | None:
        """By the last scan of the index, which PostgreSQL notes since version 16."""
        with self.session() as far:
            return index.seconds_since_read(far, self.place, self.record.state_since)

    # --- the alias

    def alias_target(self, name: str) -> str | None:
        """The table that the view stands on; whatever else has the name is what it shows."""
        query = """select case when c.relkind <> 'v' then c.relname else coalesce(
                     (select t.relname from pg_rewrite r join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = r.oid
                        join pg_class t on d.refclassid = 'pg_class'::regclass and t.oid = d.refobjid and t.oid <> c.oid
                      where r.ev_class = c.oid limit 1), 'no table') end
                   from pg_class c where c.relnamespace = to_regnamespace(%s) and c.relname = %s"""
        with self.session() as conn:
            found: str | None = scalar(conn, query, (ident(self.place.schema).as_string(conn), name))
        return found

    def point_alias(self, name: str) -> None:
        """Replaced in place; made anew with its rights where the vectors' type changes, in one transaction too."""
        view = ident(self.place.schema, name)
        shown = sql.SQL(
            """{} view {} as select id as point_id, {} as key, {} as chunk, {} as version, embedding::{} as embedding, columns
               from {}"""
        )
        parts = (*map(ident, (KEY, CHUNK, VERSION)), literal(self.space.storage), self.table)
        with self.session() as conn, conn.transaction():
            try:
                with conn.transaction():
                    conn.execute(shown.format(sql.SQL("create or replace"), view, *parts))
            except NOT_IN_PLACE:
                saved = save_rights(conn, self.place.schema, name)
                conn.execute(sql.SQL("drop view {}").format(view))
                conn.execute(shown.format(sql.SQL("create"), view, *parts))
                if saved:
                    saved.restore(conn)

    def remove_alias(self, name: str) -> None:
        """The view."""
        with self.session() as conn:
            conn.execute(sql.SQL("drop view if exists {}").format(ident(self.place.schema, name)))

"""Texts that are in a store's payload alone, copied into a table of PostgreSQL; and again, for what is new, changed or gone.

A page of points is one transaction. A run that is killed leaves rows that are right, and the next one, which reads every point
anyway, finds them unchanged. Rows go when a listing is complete: when it has as many points as the store itself counts.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

from psycopg import errors as pg
from psycopg import sql

from embedmig.config.toml_values import folded
from embedmig.database import Connection, ident, scalar
from embedmig.errors import Interrupted, PlanError, UsageError
from embedmig.events import Event
from embedmig.source import comma
from embedmig.stores.adopted_place import ID, PAYLOAD, check_key, text_of
from embedmig.types import Progress

if TYPE_CHECKING:
    from embedmig.stores.external import ExternalStore, Held

ColumnType = Literal["text", "bigint", "double precision", "boolean", "jsonb"]
INCOMING, SEEN = sql.Identifier("embedmig_incoming"), sql.Identifier("embedmig_imported")
IMPORT_CLASS = 0x656D6269  # "embi"; the second half of the lock's key is the table's name
EXAMPLES = 3


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a payload and its column; ``type`` is that of the column."""

    name: str
    column: str
    type: ColumnType = "text"

    @classmethod
    def of(cls, given: str) -> Field:
        """``payload.FIELD``, or ``payload.FIELD:TYPE``. Raises :class:`UsageError`."""
        path, _, kind = given.partition(":")
        if not path.startswith(PAYLOAD) or path == PAYLOAD:
            raise UsageError(f"{given!r} is no field of a payload", hint="payload.FIELD")
        if kind and kind not in get_args(ColumnType):
            raise UsageError(f"{given!r}: {kind} is not known", hint=f"one of {', '.join(get_args(ColumnType))}")
        name = path.removeprefix(PAYLOAD)
        return cls(name, name, kind or "text")  # type: ignore[arg-type]  # checked above

    def value(self, payload: Any) -> str | None:
        """As PostgreSQL reads it."""
        found = payload.get(self.name)
        if found is None or (isinstance(found, str) and self.type != "jsonb"):
            return found.replace("\0", "") if found else found
        if self.type in ("text", "bigint") and not isinstance(found, bool | list | dict):
            return text_of(found)  # some stores keep every number as a float
        return json.dumps(found, ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class Layout:
    """The table: ``name`` as SQL has it, the key's column, texts and other columns. ``key`` is ``id`` or ``payload.FIELD``."""

    name: str
    key: str
    texts: Sequence[Field]
    columns: Sequence[Field] = ()

    def __post_init__(self) -> None:
        check_key(self.key)
        names = [self.key_column, *(one.column for one in self.fields)]
        if twice := [name for place, name in enumerate(names) if name in names[:place]]:
            raise UsageError(f"two columns would be called {twice[0]!r}", hint="name each field once")

    @property
    def fields(self) -> list[Field]:
        """All but the key."""
        return [*self.texts, *self.columns]

    @property
    def key_column(self) -> str:
        """Called as the field is, or ``id``."""
        return ID if self.key == ID else self.key.removeprefix(PAYLOAD)

    @property
    def relation(self) -> sql.Identifier:
        """By the search path where no schema is named."""
        schema, _, _ = self.name.rpartition(".")
        return ident(folded(schema), folded(self.name)) if schema else ident(folded(self.name))

    def key_of(self, point: Held) -> str | None:
        """As text."""
        return point.id if self.key == ID else text_of(point.payload.get(self.key_column))


@dataclass
class Copied:
    """What an import found. ``problem`` says why rows that the listing does not have were left."""

    points: int = 0
    new: int = 0
    changed: int = 0
    gone: int = 0
    without_key: int = 0
    without_text: int = 0
    duplicates: int = 0
    examples: dict[str, list[str]] = field(default_factory=dict)
    problem: str = ""

    def leave(self, why: Literal["without_key", "without_text", "duplicates"], name: str) -> None:
        """Counts a point that is not copied, and keeps the names of some."""
        setattr(self, why, getattr(self, why) + 1)
        some = self.examples.setdefault(why, [])
        if len(some) < EXAMPLES:
            some.append(name)


class Import:
    """One collection of a store into one table. ``origin`` is what the table's comment says of it."""

    def __init__(
        self,
        conn: Connection,
        store: ExternalStore,
        layout: Layout,
        report: Callable[[Event], None],
        stop: threading.Event,
    ) -> None:
        self.conn, self.store, self.layout, self.report, self.stop = conn, store, layout, report, stop
        self.origin = f"imported by embedmig from {store.collection} of {store.settings.name}"

    def run(self) -> Copied:
        """Every point once. Raises :class:`PlanError` for a table that is something else, :class:`UsageError` for values that
        are not of their column's type.
        """
        lock = (IMPORT_CLASS, self.layout.name)
        self.conn.execute("select pg_advisory_lock(%s, hashtext(%s))", lock)
        try:
            self._make_table()
            return self._copy()
        finally:
            if not self.conn.closed:
                self.conn.execute("select pg_advisory_unlock(%s, hashtext(%s))", lock)

    def _make_table(self) -> None:
        """Or what it lacks; a table that an import did not make is left alone."""
        relation = self.layout.relation
        columns = [
            sql.SQL("{} {}").format(ident(one.column), sql.SQL(one.type)) for one in self.layout.fields
        ]  # fmt: skip
        with self.conn.transaction():
            there = scalar(self.conn, "select to_regclass(%s)::oid::bigint", (relation.as_string(self.conn),))
            if there is None:
                query = sql.SQL("create table {} ({} text primary key, {})")
                self.conn.execute(query.format(relation, ident(self.layout.key_column), comma(columns)))
                self.conn.execute(sql.SQL("comment on table {} is {}").format(relation, sql.Literal(self.origin)))
                return
            said = scalar(self.conn, "select obj_description(%s::oid, 'pg_class')", (there,))
            if said != self.origin:
                raise PlanError(
                    f"table {self.layout.name} is there already, and is not {self.origin}", hint="--table names another"
                )
            for column in columns:
                self.conn.execute(sql.SQL("alter table {} add column if not exists {}").format(relation, column))

    def _copy(self) -> Copied:
        found, before = Copied(), self.store.attempt(self.store.total)
        names = [ident(self.layout.key_column), *(ident(one.column) for one in self.layout.fields)]
        self.conn.execute(
            sql.SQL("create temp table if not exists {} ({})").format(
                INCOMING, comma(sql.SQL("{} text").format(name) for name in names)
            )
        )
        self.conn.execute(sql.SQL("create temp table if not exists {} (key text primary key)").format(SEEN))
        self.conn.execute(sql.SQL("truncate {}").format(SEEN))
        for page in self.store.held(self._asked()):
            found.points += len(page)
            self._take(list(self._rows(page, found)), found)
            self.report(Progress("importing", found.points, before, "points"))
            if self.stop.is_set():
                raise Interrupted("stopped while points were imported", hint="run the same command again")
        after = self.store.attempt(self.store.total)
        if min(before, after) <= found.points <= max(before, after):
            found.gone = self._remove()
        else:
            found.problem = f"the store lists {found.points:,} points and counts {after:,}: no row was removed"
        return found

    def _asked(self) -> list[str]:
        fields = [one.name for one in self.layout.fields]
        return fields if self.layout.key == ID else [self.layout.key_column, *fields]

    def _rows(self, page: Sequence[Held], found: Copied) -> Iterator[list[str | None]]:
        """Key, texts and columns; those that can't be rows are counted."""
        taken = set[str]()
        for point in page:
            key = self.layout.key_of(point)
            values = [one.value(point.payload) for one in self.layout.fields]
            if key is None:
                found.leave("without_key", point.id)
            elif not any(value and value.strip() for value in values[: len(self.layout.texts)]):
                found.leave("without_text", key)
            elif key in taken:
                found.leave("duplicates", key)
            else:
                taken.add(key)
                yield [key, *values]

    def _take(self, rows: list[list[str | None]], found: Copied) -> None:
        """One transaction: of keys that an earlier page had, the first point counts."""
        try:
            with self.conn.transaction():
                self.conn.execute(sql.SQL("truncate {}").format(INCOMING))
                with self.conn.cursor() as cursor, cursor.copy(sql.SQL("copy {} from stdin").format(INCOMING)) as copy:
                    for row in rows:
                        copy.write_row(row)
                for known in self.conn.execute(self._known()).fetchall():
                    found.leave("duplicates", known[0])
                for made, count in self.conn.execute(self._upsert()).fetchall():
                    found.new, found.changed = (
                        (found.new + count, found.changed) if made else (found.new, found.changed + count)
                    )
        except (pg.DataError, pg.DatatypeMismatch) as error:
            raise UsageError(
                f"a value is not of its column's type: {error.diag.message_primary}",
                hint="--column payload.FIELD:text keeps it as it is",
            ) from error

    def _known(self) -> sql.Composed:
        """Takes what an earlier page had out of the incoming rows; and notes the keys of the others."""
        return sql.SQL(
            """with known as (delete from {incoming} i using {seen} k where i.{key} = k.key returning i.{key}),
               noted as (insert into {seen} select i.{key} from {incoming} i on conflict do nothing)
               select * from known"""
        ).format(incoming=INCOMING, seen=SEEN, key=ident(self.layout.key_column))

    def _upsert(self) -> sql.Composed:
        """Rows that differ alone are written, so that nothing is captured of the others."""
        fields = [ident(one.column) for one in self.layout.fields]
        typed = comma(sql.SQL("i.{}::{}").format(ident(one.column), sql.SQL(one.type)) for one in self.layout.fields)
        return sql.SQL(
            """with put as (
                 insert into {table} as t ({key}, {fields}) select i.{key}, {typed} from {incoming} i
                 on conflict ({key}) do update set {set} where ({ours}) is distinct from ({theirs})
                 returning t.xmax::text = '0' as made)
               select made, count(*) from put group by made"""
        ).format(
            table=self.layout.relation, key=ident(self.layout.key_column), fields=comma(fields), typed=typed, incoming=INCOMING,
            set=comma(sql.SQL("{0} = excluded.{0}").format(name) for name in fields),
            ours=comma(sql.SQL("t.{}").format(name) for name in fields),
            theirs=comma(sql.SQL("excluded.{}").format(name) for name in fields),
        )  # fmt: skip

    def _remove(self) -> int:
        query = sql.SQL("delete from {} t where not exists (select from {} k where k.key = t.{})")
        return self.conn.execute(query.format(self.layout.relation, SEEN, ident(self.layout.key_column))).rowcount

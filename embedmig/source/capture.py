"""Capture: triggers on the source note the keys of rows whose text, eligibility or key really changed.

They write to an outbox, one narrow table a collection without index or sequence: a writer pays for one more insert, and
for one alone where a statement inserts many rows whose integer keys lie close together: those are noted as a range.
Rows of an outbox become visible when their transaction commits, however long it was open, and are taken by deletion;
so no commit can slip in behind a cursor. :mod:`embedmig.engine.outbox` hands them to every live space.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from psycopg import sql

from embedmig.database import Connection, ident, literal, scalar
from embedmig.database.registry import Registry
from embedmig.errors import SourceError
from embedmig.source import Source, comma, list_columns

CaptureState = Literal["installed", "missing", "disabled", "outdated", "watermark", "none"]
EVENTS = ("insert", "update", "delete", "truncate")
INTEGERS = ("smallint", "integer", "bigint")
MANY = 8  # rows of a statement from which on it tries to note a range
SPARSE = 8  # a range is less than so many times wider than its statement has rows: others insert at the same time


@dataclass(frozen=True, slots=True)
class Capture:
    """What is to be installed for a collection: the text columns of all its live spaces are watched."""

    source: Source
    schema: str
    text: tuple[str, ...]

    @property
    def slug(self) -> str:
        """A name within PostgreSQL's 63 bytes, unique to the collection."""
        name = self.source.collection.name
        plain = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")[:32]
        return plain if plain == name else f"{plain}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"

    @property
    def outbox(self) -> sql.Identifier:
        """The table that the triggers write to."""
        return ident(self.schema, f"outbox_{self.slug}")

    def function(self, event: str) -> sql.Identifier:
        """The trigger function of an event."""
        return ident(self.schema, f"capture_{self.slug}_{event}")

    @property
    def by_row(self) -> bool:
        """Partitioned tables get row triggers: those reach rows written to a partition directly, and new partitions."""
        return self.source.partitioned

    @property
    def by_range(self) -> bool:
        """Whether inserted keys may be noted as ranges: integers have all that lies between two of them."""
        return not self.by_row and len(self.source.key) == 1 and self.source.key[0].type in INTEGERS

    @property
    def digest(self) -> str:
        """Changes whenever the triggers would have to be made anew."""
        statements = [self.body(event).as_string() for event in EVENTS]
        statements += [f"{column.name} {column.declaration}" for column in self.source.key]
        return hashlib.sha256("\n".join(statements).encode()).hexdigest()

    # --- statements

    def create_outbox(self) -> sql.Composed:
        """Keys and a time. NULL keys stand for a TRUNCATE, a key with ``embedmig_upto`` for every row from the one to the other."""
        keys = comma(sql.SQL("{} {}").format(ident(c.name), literal(c.declaration)) for c in self.source.key)
        return sql.SQL(
            "create table if not exists {} ({}, changed_at timestamptz not null default now(), embedmig_upto bigint)"
        ).format(self.outbox, keys)

    def create_function(self, event: str, path: Sequence[str] = ()) -> sql.Composed:
        """The function runs with its owner's rights: whoever may write the source need not know of the outbox.

        ``path`` are the schemas in which the names of a predicate are looked up, after the catalog. Where the body
        has no predicate and compares nothing, it looks nothing up, and setting a path would cost a one-row insert
        a tenth of its speed.
        """
        schemas = comma(ident(name) for name in ("pg_catalog", *path, "pg_temp"))
        looks_up = event == "update" or self.source.collection.where
        return sql.SQL(
            "create or replace function {}() returns trigger language plpgsql security definer {} as {}"
        ).format(
            self.function(event),
            sql.SQL("set search_path = {}").format(schemas) if looks_up else sql.SQL(""),
            sql.Literal(self.body(event).as_string()),
        )

    def create_trigger(self, event: str) -> sql.Composed:
        """Fires in replica sessions too: rows that arrive by replication want vectors as well."""
        transition = {
            "insert": "referencing new table as new_rows",
            "update": "referencing old table as old_rows new table as new_rows",
            "delete": "referencing old table as old_rows",
            "truncate": "",
        }[event]
        each = "row" if self.by_row and event != "truncate" else "statement"
        name = ident(f"embedmig_{self.slug}_{event}")
        return sql.SQL(
            "create trigger {name} after {event} on {table} {transition} for each {each} execute function {function}(); "
            "alter table {table} enable always trigger {name}"
        ).format(
            name=name,
            event=literal(event),
            table=self.source.relation,
            transition=literal("" if each == "row" else transition),
            each=literal(each),
            function=self.function(event),
        )

    def drop_triggers(self) -> sql.Composed:
        """Removes the triggers; the functions are replaced in place."""
        drops = [
            sql.SQL("drop trigger if exists {} on {}").format(
                ident(f"embedmig_{self.slug}_{event}"), self.source.relation
            )
            for event in EVENTS
        ]
        return sql.SQL("; ").join(drops)

    def body(self, event: str) -> sql.Composed:
        """What a trigger function does. Predicates stand over a subquery of the row, so that bare names mean its columns."""
        insert = sql.SQL("insert into {} ({}) ").format(self.outbox, self.source.key_columns)
        if event == "truncate":
            nulls = comma(sql.SQL("null") for _ in self.source.key)
            return sql.SQL("begin {}select {}; return null; end").format(insert, nulls)
        inserted = self._select_one(sql.SQL("new_rows"), sql.SQL("(select new.*)"))
        if event == "insert" and self.by_range:
            return self._note_range(insert, inserted)
        select = {
            "insert": inserted,
            "delete": self._select_one(sql.SQL("old_rows"), sql.SQL("(select old.*)")),
            "update": self._select_changed(),
        }[event]
        return sql.SQL("begin {}{}; return null; end").format(insert, select)

    def _note_range(self, insert: sql.Composed, rows: sql.Composed) -> sql.Composed:
        """The first rows by key; where that were not all, all of them again: as a range if their keys lie close together.

        A hundred rows then cost a writer half of what their keys cost, one row costs as much as ever. Nothing here is
        looked up in a search path that is not the function's own.
        """
        return sql.SQL(
            """declare many int; begin
               {insert}{rows} limit {many}; get diagnostics many = row_count;
               if many operator(pg_catalog.=) {many} then
                 insert into {outbox} ({key}, embedmig_upto)
                 select pg_catalog.min(r.{key}), pg_catalog.max(r.{key}) from new_rows r {where}
                 having pg_catalog.max(r.{key})::pg_catalog.float8 operator(pg_catalog.-) pg_catalog.min(r.{key})::pg_catalog.float8
                   operator(pg_catalog.<) (pg_catalog.count(*) operator(pg_catalog.*) {sparse})::pg_catalog.float8;
                 if not found then {insert}{rows}; end if;
               end if;
               return null; end"""
        ).format(
            insert=insert, rows=rows, outbox=self.outbox, key=self.source.key_columns, where=self._where(),
            many=sql.Literal(MANY), sparse=sql.Literal(SPARSE),
        )  # fmt: skip

    def _select_one(self, table: sql.Composable, row: sql.Composable) -> sql.Composed:
        return sql.SQL("select {} from {} r {}").format(
            self.source.key_of("r"), row if self.by_row else table, self._where()
        )

    def _where(self) -> sql.Composable:
        """Of inserted and deleted rows those count that are eligible, or were."""
        return sql.SQL("where {}").format(self.source.predicate) if self.source.collection.where else sql.SQL("")

    def _select_changed(self) -> sql.Composed:
        """Keys whose text, eligibility or key itself is not what it was: by value, not by mention in the statement.

        Letters are compared, as the content hash does: citext holds other spellings for equal, json for incomparable.
        """
        sides = [
            sql.SQL("(select {}, {} as embedmig_text, ({}) as embedmig_eligible from {} r)").format(
                self.source.key_columns,
                sql.SQL("row({})").format(comma(sql.SQL('r.{}::text collate "C"').format(ident(n)) for n in self.text)),
                self.source.predicate,
                table,
            )
            for table in (
                (sql.SQL("(select new.*)"), sql.SQL("(select old.*)"))
                if self.by_row
                else (sql.SQL("new_rows"), sql.SQL("old_rows"))
            )
        ]
        keys = comma(
            sql.SQL("coalesce({}, {})").format(ident("n", column.name), ident("o", column.name))
            for column in self.source.key
        )
        return sql.SQL(
            """select {keys} from {new} n full join {old} o on {join}
               where coalesce(n.embedmig_eligible, false) is distinct from coalesce(o.embedmig_eligible, false)
                  or (n.embedmig_eligible and n.embedmig_text is distinct from o.embedmig_text)"""
        ).format(keys=keys, new=sides[0], old=sides[1], join=self.source.join("n", "o"))


def install(conn: Connection, registry: Registry, source: Source, text: Sequence[str]) -> bool:
    """Inside a transaction: sees to it that every later commit is captured. False if it was so already.

    CREATE TRIGGER waits for the writers under way, so that nothing falls between it and the backfill that follows.
    Raises :class:`SourceError` where the role may not create triggers.
    """
    live = [record for record in registry.spaces(conn, source.collection.name) if record.state != "retired"]
    columns = dict.fromkeys([*text, *(name for record in live for name in record.text_columns)])
    if source.collection.capture == "watermark":
        return registry.save_capture(conn, source.collection.name, "watermark", source.relation.as_string(), None, None)
    capture = Capture(source, registry.schema, tuple(columns))
    if state(conn, registry, source) == "installed" and registry.capture_digest(conn, source.collection.name) == (
        capture.digest
    ):
        return False
    refuse_without_trigger_right(conn, source)
    conn.execute(capture.create_outbox())
    retype_outbox(conn, capture)
    path = predicate_path(conn) if source.collection.where else ()
    for event in EVENTS:
        conn.execute(capture.create_function(event, path))
    conn.execute(capture.drop_triggers())
    for event in EVENTS:
        conn.execute(capture.create_trigger(event))
    registry.save_capture(
        conn,
        source.collection.name,
        "triggers",
        source.relation.as_string(),
        capture.outbox.as_string(),
        capture.digest,
    )
    return True


def retype_outbox(conn: Connection, capture: Capture) -> None:
    """An outbox from before the key's type was altered takes the new type, so that no write fails at the trigger."""
    oid = scalar(conn, "select %s::regclass::oid::bigint", (capture.outbox.as_string(conn),))
    known = list_columns(conn, oid)
    for column in capture.source.key:
        if known[column.name].type != column.type:
            conn.execute(
                sql.SQL("alter table {} alter column {} type {} using {}::text::{}").format(
                    capture.outbox,
                    ident(column.name),
                    literal(column.declaration),
                    ident(column.name),
                    literal(column.type),
                )
            )


def predicate_path(conn: Connection) -> tuple[str, ...]:
    """Where this session finds the functions and types that the configuration's ``where`` names."""
    return tuple(row[0] for row in conn.execute("select unnest(current_schemas(false))"))


def refuse_without_trigger_right(conn: Connection, source: Source) -> None:
    """Says what to do where triggers are not allowed. Raises :class:`SourceError`."""
    owner = scalar(
        conn,
        "select pg_has_role(relowner, 'USAGE') and relkind in ('r', 'p') from pg_class where oid = %s",
        (source.oid,),
    )
    if not owner:
        raise SourceError(
            f"triggers can't be created on {source.collection.table}: this role does not own it, or it is a foreign table",
            hint=f'run as its owner, or set capture = "watermark" and changed_at = "…" in [collections.{source.collection.name}]',
        )


def state(conn: Connection, registry: Registry, source: Source) -> CaptureState:
    """Whether changes are being captured. Wants SELECT alone.

    ``outdated``: the configuration's ``where`` or key is not what the triggers were made for.
    """
    if source.collection.capture == "watermark":
        return "watermark"
    known = registry.capture_digest(conn, source.collection.name)
    if known is None:
        return "none"
    slug = Capture(source, registry.schema, ()).slug
    enabled = [
        row[0]
        for row in conn.execute(
            "select tgenabled from pg_trigger where tgrelid = %s and tgname = any(%s)",
            (source.oid, [f"embedmig_{slug}_{event}" for event in EVENTS]),
        )
    ]
    if len(enabled) < len(EVENTS):
        return "missing"
    if any(flag in ("D", "R") for flag in enabled):
        return "disabled"
    live = [record for record in registry.spaces(conn, source.collection.name) if record.state != "retired"]
    columns = tuple(dict.fromkeys(name for record in live for name in record.text_columns))
    return "installed" if not columns or Capture(source, registry.schema, columns).digest == known else "outdated"


def uninstall(conn: Connection, registry: Registry, source: Source) -> None:
    """Inside a transaction: when no live space is left, writers no longer pay for capture."""
    capture = Capture(source, registry.schema, ())
    conn.execute(capture.drop_triggers())
    for event in EVENTS:
        conn.execute(sql.SQL("drop function if exists {}()").format(capture.function(event)))
    conn.execute(sql.SQL("drop table if exists {}").format(capture.outbox))
    registry.forget_capture(conn, source.collection.name)

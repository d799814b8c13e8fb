"""The SQL of capture: the outbox, the trigger functions and the triggers of one collection.

Nothing in a function may be ambiguous: a column's name goes before a variable's, the function's own names begin with
``embedmig_``, operators and types are qualified where a session could mean others. What goes wrong in one all the same lets
the application's write through: it is caught, and written down as a failure that closes the gates.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from psycopg import sql

from embedmig.database import ident, literal
from embedmig.source.table import Source, comma

Event = Literal["insert", "update", "delete", "truncate"]
CHANGES: tuple[Event, ...] = ("insert", "update", "delete")
INTEGERS = ("smallint", "integer", "bigint")
MANY = 8  # rows of a statement from which on it tries to note a range
SPARSE = 8  # a range is less than so many times wider than its statement has rows: others insert at the same time
SESSION = {
    "timezone": "UTC", "datestyle": "ISO, MDY", "intervalstyle": "postgres", "bytea_output": "hex",
    "extra_float_digits": "1", "lc_monetary": "C",
}  # fmt: skip
"""How embedmig's own sessions write values; where another session must write them alike, these are set for it."""

GUARDED = """
#variable_conflict use_column
declare embedmig_many pg_catalog.int4; embedmig_reason pg_catalog.text; begin
  begin
    {statements}
  exception when others then
    embedmig_reason := pg_catalog.concat(sqlerrm, ' (', sqlstate, ')');
    begin
      insert into {failures} (collection, event, reason) select {collection}, {event}, embedmig_reason
      where not exists (select from {failures} f where f.collection operator(pg_catalog.=) {collection});
    exception when others then
      raise warning 'embedmig: % of % is not captured: %', {event}, {table}, embedmig_reason;
    end;
  end;
  return null;
end"""

RANGE = """{insert}{rows} limit {many}; get diagnostics embedmig_many = row_count;
    if embedmig_many operator(pg_catalog.=) {many} then
      insert into {outbox} ({key}, embedmig_upto)
      select pg_catalog.min({column}), pg_catalog.max({column}) from {new} {where}
      having pg_catalog.max({column})::pg_catalog.float8 operator(pg_catalog.-) pg_catalog.min({column})::pg_catalog.float8
        operator(pg_catalog.<) (pg_catalog.count(*) operator(pg_catalog.*) {sparse})::pg_catalog.float8;
      if not found then {insert}{rows}; end if;
    end if;"""

CHANGED = """select {keys} from {new} embedmig_n full join {old} embedmig_o on {join}
      where coalesce(embedmig_n.embedmig_eligible, false) is distinct from coalesce(embedmig_o.embedmig_eligible, false)
         or (embedmig_n.embedmig_eligible and embedmig_n.embedmig_text is distinct from embedmig_o.embedmig_text);"""


@dataclass(frozen=True, slots=True)
class Trigger:
    """A trigger and its function. ``enable``: in which sessions it fires (``replica``: where rows arrive by replication)."""

    event: Event
    by_row: bool
    enable: Literal["", "replica", "always"]

    @property
    def suffix(self) -> str:
        """Ends the names of both."""
        return f"{self.event}_row" if self.by_row else self.event


@dataclass(frozen=True, slots=True)
class Capture:
    """What is to be installed for a collection: the text columns of all its live spaces are watched."""

    source: Source
    schema: str
    text: tuple[str, ...]

    # --- names

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

    def function_name(self, trigger: Trigger) -> str:
        """A trigger's function, in embedmig's schema."""
        return f"capture_{self.slug}_{trigger.suffix}"

    def trigger_name(self, trigger: Trigger) -> str:
        """Unique to the ledger, too: two of them may watch one table."""
        whose = self.slug
        if self.schema != "embedmig":
            whose = hashlib.sha256(f"{self.schema}\0{self.slug}".encode()).hexdigest()[:16]
        return f"embedmig_{whose}_{trigger.suffix}"

    @property
    def triggers(self) -> tuple[Trigger, ...]:
        """Statement triggers for the table's own writers, who pay once a statement; row triggers for the rows that arrive by
        replication, whose apply worker fires no others. A partitioned table and a child get row triggers alone: those reach
        rows that are written to a partition directly or by way of a parent, and new partitions.
        """
        always = (Trigger("truncate", False, "always"),)
        if self.by_row:
            return (*(Trigger(event, True, "always") for event in CHANGES), *always)
        return (
            *(Trigger(event, False, "") for event in CHANGES),
            *(Trigger(event, True, "replica") for event in CHANGES),
            *always,
        )

    @property
    def by_row(self) -> bool:
        """Whether all are row triggers."""
        return self.source.partitioned or self.source.child

    @property
    def by_range(self) -> bool:
        """Whether inserted keys may be noted as ranges: integers have all that lies between two of them."""
        return not self.by_row and len(self.source.key) == 1 and self.source.key[0].base in INTEGERS

    @property
    def digest(self) -> str:
        """Changes whenever the triggers would have to be made anew."""
        parts = [
            self.create_outbox(),
            *(self.body(one) for one in self.triggers),
            *map(self.create_trigger, self.triggers),
        ]
        return hashlib.sha256("\n".join(part.as_string() for part in parts).encode()).hexdigest()

    # --- statements

    def create_outbox(self) -> sql.Composed:
        """Keys and a time. NULL keys stand for a TRUNCATE, a key with ``embedmig_upto`` for every row from the one to the other.

        No index, so that a writer pays little; a publication of all tables wants to know which row is deleted.
        """
        keys = comma(sql.SQL("{} {}").format(ident(c.name), literal(c.nullable)) for c in self.source.key)
        return sql.SQL(
            "create table if not exists {outbox} ({keys}, changed_at timestamptz not null default now(), embedmig_upto bigint); "
            "alter table {outbox} replica identity full"
        ).format(outbox=self.outbox, keys=keys)

    def create_function(self, trigger: Trigger, path: Sequence[str] = ()) -> sql.Composed:
        """The function runs with its owner's rights: whoever may write the source need not know of the outbox.

        ``path`` are the schemas in which the names of a predicate are looked up, after the catalog. Where the body
        has no predicate and compares nothing, it looks nothing up, and setting a path would cost a one-row insert
        a tenth of its speed.
        """
        schemas = comma(ident(name) for name in ("pg_catalog", *path, "pg_temp"))
        settings = [sql.SQL("set search_path = {}").format(schemas)]
        if trigger.event == "update" and any(
            column.by_session for column in self.source.every if column.name in self.text
        ):
            settings += [sql.SQL("set {} = {}").format(literal(name), sql.Literal(to)) for name, to in SESSION.items()]
        looks_up = trigger.event == "update" or (self.source.collection.where and trigger.event != "truncate")
        return sql.SQL(
            "create or replace function {}() returns trigger language plpgsql security definer {} as {}"
        ).format(
            ident(self.schema, self.function_name(trigger)),
            sql.SQL(" ").join(settings if looks_up else []),
            sql.Literal(self.body(trigger).as_string()),
        )

    def create_trigger(self, trigger: Trigger, table: sql.Composable | None = None) -> sql.Composed:
        """On the source, or on a ``table`` like it."""
        transition = {
            "insert": "referencing new table as new_rows",
            "update": "referencing old table as old_rows new table as new_rows",
            "delete": "referencing old table as old_rows",
            "truncate": "",
        }[trigger.event]
        enable = "; alter table {table} enable {sessions} trigger {name}" if trigger.enable else ""
        return sql.SQL(
            "create trigger {name} after {event} on {table} {transition} for each {each} execute function {function}()"
            + enable
        ).format(
            name=ident(self.trigger_name(trigger)),
            event=literal(trigger.event),
            table=table or self.source.relation,
            transition=literal("" if trigger.by_row else transition),
            each=literal("row" if trigger.by_row else "statement"),
            function=ident(self.schema, self.function_name(trigger)),
            sessions=literal(trigger.enable),
        )

    # --- what a function does

    def body(self, trigger: Trigger) -> sql.Composed:
        """The function's text."""
        return sql.SQL(GUARDED).format(
            statements=self._statements(trigger), failures=ident(self.schema, "capture_failures"),
            collection=sql.Literal(self.source.collection.name), event=sql.Literal(trigger.event),
            table=sql.Literal(self.source.collection.table),
        )  # fmt: skip

    def _statements(self, trigger: Trigger) -> sql.Composed:
        insert = sql.SQL("insert into {} ({}) ").format(self.outbox, self.source.key_columns)
        if trigger.event == "truncate":
            return sql.SQL("{}select {};").format(insert, comma(sql.SQL("null") for _ in self.source.key))
        if trigger.event == "update":
            return sql.SQL("{}{}").format(insert, self._select_changed(trigger))
        rows = sql.SQL("select {} from {} {}").format(
            self.source.key_of(self.source.table),
            self._rows(trigger, "old" if trigger.event == "delete" else "new"),
            self._where(),
        )
        if trigger.event == "insert" and not trigger.by_row and self.by_range:
            return sql.SQL(RANGE).format(
                insert=insert, rows=rows, outbox=self.outbox, key=self.source.key_columns,
                column=self.source.key_of(self.source.table), new=self._rows(trigger, "new"), where=self._where(),
                many=sql.Literal(MANY), sparse=sql.Literal(SPARSE),
            )  # fmt: skip
        return sql.SQL("{}{};").format(insert, rows)

    def _rows(self, trigger: Trigger, which: Literal["new", "old"]) -> sql.Composed:
        """The changed rows under the table's own name, so that a predicate means the same here; virtual columns computed."""
        rows, name = literal(f"(select {which}.*)" if trigger.by_row else f"{which}_rows"), ident(self.source.table)
        if not any(column.expression for column in self.source.every):
            return sql.SQL("{} {}").format(rows, name)
        columns = comma(
            sql.SQL("({}) as {}").format(literal(column.expression), ident(column.name))
            if column.expression
            else ident(column.name)
            for column in self.source.every
        )
        return sql.SQL("(select {} from {} embedmig_r) {}").format(columns, rows, name)

    def _where(self) -> sql.Composable:
        """Of inserted and deleted rows those count that are eligible, or were."""
        return sql.SQL("where {}").format(self.source.predicate) if self.source.collection.where else sql.SQL("")

    def _select_changed(self, trigger: Trigger) -> sql.Composed:
        """Keys whose text, eligibility or key itself is not what it was: by value, not by mention in the statement.

        Letters are compared, as the content hash does: citext holds other spellings for equal, json for incomparable.
        """
        table = self.source.table
        text = comma(sql.SQL('{}::text collate "C"').format(ident(table, name)) for name in self.text)
        new, old = (
            sql.SQL("(select {}, row({}) as embedmig_text, ({}) as embedmig_eligible from {})").format(
                self.source.key_of(table), text, self.source.predicate, self._rows(trigger, which)
            )
            for which in ("new", "old")
        )
        keys = comma(
            sql.SQL("coalesce({}, {})").format(ident("embedmig_n", column.name), ident("embedmig_o", column.name))
            for column in self.source.key
        )
        return sql.SQL(CHANGED).format(keys=keys, new=new, old=old, join=self.source.join("embedmig_n", "embedmig_o"))

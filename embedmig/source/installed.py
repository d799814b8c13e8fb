"""What capture installed, found in the catalog: it can be removed although the source's columns, or the table, are gone."""

from __future__ import annotations

from dataclasses import dataclass

from psycopg import sql

from embedmig.database import Connection, ident
from embedmig.database.registry import Registry

EVENTS = "insert|update|delete|truncate"


@dataclass(frozen=True, slots=True)
class InstalledTrigger:
    """A trigger of embedmig's, where it is now, and its function in embedmig's schema. On a partition it goes with the parent's."""

    schema: str
    table: str
    name: str
    function: str

    def drop(self) -> sql.Composed:
        return sql.SQL("drop trigger if exists {} on {}").format(ident(self.name), ident(self.schema, self.table))


def installed_triggers(conn: Connection, schema: str, slug: str | None = None) -> list[InstalledTrigger]:
    """The triggers whose functions are in ``schema`` and named as capture names them; of one collection's ``slug``, or all."""
    pattern = f"^capture_{slug or '.+'}_({EVENTS})(_row)?$"
    rows = conn.execute(
        """select n.nspname, c.relname, t.tgname, p.proname from pg_trigger t
           join pg_proc p on p.oid = t.tgfoid join pg_class c on c.oid = t.tgrelid join pg_namespace n on n.oid = c.relnamespace
           where p.pronamespace = to_regnamespace(%s) and p.proname ~ %s and t.tgparentid = 0 order by 1, 2, 3""",
        (ident(schema).as_string(conn), pattern),
    )
    return [InstalledTrigger(*row) for row in rows]


def installed_functions(conn: Connection, schema: str, slug: str | None = None) -> list[str]:
    """The names of capture's functions in ``schema``."""
    query = "select proname from pg_proc where pronamespace = to_regnamespace(%s) and proname ~ %s order by 1"
    pattern = f"^capture_{slug or '.+'}_({EVENTS})(_row)?$"
    return [row[0] for row in conn.execute(query, (ident(schema).as_string(conn), pattern))]


def remove_capture(conn: Connection, registry: Registry, collection: str) -> None:
    """Inside a transaction: triggers, functions and outbox of one collection go; its writers no longer pay for them."""
    outbox = registry.capture_outbox(conn, collection)
    if outbox is not None:
        slug = outbox.rpartition("outbox_")[2].strip('"')
        for trigger in installed_triggers(conn, registry.schema, slug):
            conn.execute(trigger.drop())
        for function in installed_functions(conn, registry.schema, slug):
            conn.execute(sql.SQL("drop function if exists {}()").format(ident(registry.schema, function)))
        conn.execute(sql.SQL("drop table if exists {}").format(ident(registry.schema, f"outbox_{slug}")))
    registry.forget_capture(conn, collection)

"""Whether an alias still reads the table that bears the source's name: a view keeps to its table's oid, and goes with it."""

from __future__ import annotations

from psycopg import sql

from embedmig.database import Connection, ident
from embedmig.database.registry import Registry
from embedmig.source import Source
from embedmig.stores.store_alias import store_alias_fault


def alias_fault(conn: Connection, registry: Registry, source: Source) -> str | None:
    """What is wrong with the view, and the command that makes it anew; None where it is as it should be. Wants SELECT alone."""
    alias = registry.alias(conn, source.collection.name)
    if alias is None or alias.version is None:
        return None
    name = f"alias {alias.alias_schema}.{alias.alias_name}"
    rebuild = f"embedmig alias rebuild {source.collection.name}"
    found = conn.execute(
        "select oid::bigint, relkind from pg_class where oid = to_regclass(%s)",
        (ident(alias.alias_schema, alias.alias_name).as_string(conn),),
    ).fetchone()
    if found is None:
        return f"{name} is not there, and should show {alias.version}: {rebuild}"
    view, kind = found
    if kind != "v":
        return f"{name} is no view any more; rename or drop what took its place, and make it anew: {rebuild}"
    query = sql.SQL(
        """select d.refobjid::bigint, d.refobjid::regclass::text from pg_depend d join pg_rewrite r on r.oid = d.objid
           join pg_class c on c.oid = d.refobjid
           where d.classid = 'pg_rewrite'::regclass and d.refclassid = 'pg_class'::regclass and r.ev_class = {view}
             and d.refobjid <> r.ev_class
             and (d.refobjid = {source} or c.relnamespace is distinct from to_regnamespace({schema}))"""
    ).format(
        view=sql.Literal(view), source=sql.Literal(source.oid), schema=sql.Literal(ident(registry.schema).as_string(conn))
    )  # fmt: skip
    read: dict[int, str] = dict(conn.execute(query).fetchall())
    if source.oid in read:
        record = registry.space(conn, alias.collection, alias.version)
        return store_alias_fault(conn, source, record) if record and record.space.external else None
    others = sorted(read.values())
    return f"{name} reads {', '.join(others) or 'other tables'}, not {source.collection.table}: {rebuild}"

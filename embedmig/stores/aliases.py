"""The alias: a view in the source's schema that shows one space, and moves to another in one transaction.

DESIGN 3 says what each part of it is for. ``CREATE OR REPLACE VIEW`` keeps the view's OID, grants and dependents;
where the column list or a type changes, the view is dropped and made anew, with its grants and owner restored.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from psycopg import errors as pg
from psycopg import sql

from embedmig.config import Collection
from embedmig.config.toml_values import cut
from embedmig.database import Connection, ident, literal, scalar
from embedmig.database.registry import AliasRecord, Registry, SpaceRecord, definition_of
from embedmig.errors import PlanError, UsageError
from embedmig.source import Source
from embedmig.stores.manifest import Manifest
from embedmig.types import Space

CHANNEL = "embedmig_flip"
SECURITY_INVOKER_SERVER = 150000  # the first server_version_num whose views can ask with the reader's rights
NOT_IN_PLACE = (pg.InvalidTableDefinition, pg.FeatureNotSupported)  # the view has other columns or types now


def alias_name(source: Source) -> tuple[str, str]:
    """Schema and name of the view: in the table's schema unless the configuration qualifies it."""
    parts = [cut(part) for part in split_name(source.collection.alias)]
    return (parts[0], parts[1]) if len(parts) == 2 else (source.schema, parts[0])


def split_name(name: str) -> list[str]:
    """The parts of an SQL name, folded to lower case unless quoted."""
    parts = re.findall(r'\s*(?:"((?:[^"]|"")*)"|([^."]+))\s*(?:\.|$)', name)
    return [quoted.replace('""', '"') if quoted else plain.strip().lower() for quoted, plain in parts]


def refuse_foreign(conn: Connection, registry: Registry, source: Source) -> None:
    """Refuses an alias name that is a table or view of the user's, or one that would open a side door past row-level security.

    Raises :class:`PlanError`.
    """
    schema, name = alias_name(source)
    if source.row_security and conn.info.server_version < SECURITY_INVOKER_SERVER:
        raise PlanError(
            f"{source.collection.table} has row-level security, which a view keeps from PostgreSQL 15 on alone",
            hint="upgrade the server; or, where no policy is needed: ALTER TABLE … DISABLE ROW LEVEL SECURITY",
        )
    kind = scalar(conn, "select relkind from pg_class where relnamespace = to_regnamespace(%s) and relname = %s",
                  (ident(schema).as_string(conn), name))  # fmt: skip
    if kind is None:
        return
    ours = None
    if scalar(conn, "select to_regclass(%s)", (registry.aliases_table.as_string(conn),)):
        ours = scalar(
            conn,
            sql.SQL(
                """select collection from {} where (alias_schema, alias_name) = (%s, %s)
                   or encoder->'former' @> jsonb_build_array(jsonb_build_array(%s::text, %s::text))"""
            ).format(registry.aliases_table),
            (schema, name, schema, name),
        )
    if kind != "v" or ours != source.collection.name:
        mine = ours == source.collection.name
        what = {"r": "a table", "p": "a table", "v": "a view", "m": "a materialised view"}.get(kind, "something else")
        whose = f"of collection {ours!r}" if ours and not mine else "that embedmig did not make"
        raise PlanError(
            f"alias {schema}.{name} is {what} {whose}; it was left as it is",
            hint="it took the view's place: rename or drop it, then run the same command again"
            if mine else f"choose another alias in [collections.{source.collection.name}]",
        )  # fmt: skip


Name = tuple[str, str]
"""Schema and name of a view."""


def names_of(alias: AliasRecord | None) -> list[Name]:
    """Every name under which the alias is read, its own first; none where it shows nothing.

    A former name stays, and moves with every flip, until ``alias drop --old``: whoever reads it must not lose it to an
    edit of the configuration.
    """
    if alias is None or alias.version is None:
        return []
    former = (alias.encoder or {}).get("former", [])
    return [(alias.alias_schema, alias.alias_name), *((schema, name) for schema, name in former)]


def view_statement(
    source: Source, store: Manifest, *, replace: bool, name: Name | None = None, order: Sequence[str] = ()
) -> sql.Composed:
    """``CREATE [OR REPLACE] VIEW`` for a space, under the configured name unless another is given; ``order`` is that of the
    columns in the view that is there.

    Where the source has row-level security, the view asks with the reader's rights, so that it opens no side door.
    """
    options = sql.SQL("with (security_invoker = true)") if source.row_security else sql.SQL("")
    return sql.SQL("create {} view {} {} as {}").format(
        sql.SQL("or replace" if replace else ""), ident(*(name or alias_name(source))), options, store.view(order)
    )


def point(
    conn: Connection,
    registry: Registry,
    source: Source,
    store: Manifest,
    record: SpaceRecord,
    previous: AliasRecord | None,
) -> None:
    """Inside the flip's transaction: view, registry and the states of both spaces. ``previous`` is what was shown."""
    own = alias_name(source)
    former = [name for name in names_of(previous) if name != own]
    if previous and previous.space:
        registry.set_state(conn, previous.space, "retained")
    registry.set_state(conn, record.id, "active")
    registry.point_alias(conn, source.collection.name, own, record, encoder_of(record, source, former))
    conn.execute("select pg_notify(%s, %s)", (CHANNEL, source.collection.name))
    rights = rights_for(conn, own, former)
    put_view(conn, source, store, own)  # last: from here to the commit readers wait
    if rights:
        rights.restore(conn)
    for name in former:
        put_view(conn, source, store, name)


def rights_for(conn: Connection, own: Name, former: list[Name]) -> Rights | None:
    """Owner, comment and grants for a name that is new: those of the name before it. None where the name is not new."""
    if not former or scalar(conn, "select to_regclass(%s)", (ident(*own).as_string(conn),)) is not None:
        return None
    before = save_rights(conn, *former[0])
    return replace(before, view=ident(*own)) if before else None


def put_view(conn: Connection, source: Source, store: Manifest, name: Name | None = None) -> None:
    """Replaces the view in place where PostgreSQL can, and otherwise drops it and restores what hung on it.

    In a pipeline it only replaces: :data:`NOT_IN_PLACE` comes with the commit's answer, and whoever sent it does it again without.
    """
    name = name or alias_name(source)
    if conn.info.pipeline_status:
        conn.execute(view_statement(source, store, replace=True, name=name))
        return
    try:
        with conn.transaction():
            order = columns_shown(conn, name)
            conn.execute(view_statement(source, store, replace=True, name=name, order=order))
    except NOT_IN_PLACE:
        saved = save_rights(conn, *name)
        try:
            conn.execute(sql.SQL("drop view {}").format(ident(*name)))
        except pg.DependentObjectsStillExist as error:
            raise PlanError(
                f"alias {'.'.join(name)} can't be replaced in place, because its columns or the vector's type change, "
                "and other views depend on it",
                hint="drop those views first and create them again after the flip",
            ) from error
        conn.execute(view_statement(source, store, replace=False, name=name))
        if saved:
            saved.restore(conn)


def columns_shown(conn: Connection, view: Name) -> list[str]:
    """The columns of the view that is there, in order: a column that is new to it can only follow them."""
    schema, name = view
    rows = conn.execute(
        """select a.attname from pg_attribute a join pg_class c on c.oid = a.attrelid
           where c.relnamespace = to_regnamespace(%s) and c.relname = %s and a.attnum > 0 order by a.attnum""",
        (ident(schema).as_string(conn), name),
    )
    return [row[0] for row in rows]


def version_shown(conn: Connection, source: Source) -> str | None:
    """The version that the view itself says, whatever the registry does; None where there is no such view."""
    definition = scalar(
        conn,
        "select pg_get_viewdef(c.oid) from pg_class c where relkind = 'v' and relnamespace = to_regnamespace(%s) and relname = %s",
        (ident(alias_name(source)[0]).as_string(conn), alias_name(source)[1]),
    )
    found = re.search(r"'((?:[^']|'')*)'::text AS version", definition or "")
    return found[1].replace("''", "'") if found else None


def remove(conn: Connection, registry: Registry, source: Source) -> None:
    """Inside a transaction: the view goes, the vectors stay."""
    previous = registry.alias(conn, source.collection.name)
    if previous is None or previous.version is None:
        return
    for name in names_of(previous):
        conn.execute(sql.SQL("drop view if exists {}").format(ident(*name)))
    if previous.space:
        registry.set_state(conn, previous.space, "retained")
    registry.point_alias(conn, source.collection.name, (previous.alias_schema, previous.alias_name), None, None)
    conn.execute("select pg_notify(%s, %s)", (CHANNEL, source.collection.name))


def drop_dependents(conn: Connection, registry: Registry, source: Source, _: Manifest) -> None:
    """Inside a transaction: drops the view under all its names, and keeps owner, comment and grants in the registry."""
    saved = []
    for name in names_of(registry.alias(conn, source.collection.name)):
        if rights := save_rights(conn, *name):
            conn.execute(sql.SQL("drop view {}").format(ident(*name)))
            saved.append(rights.as_json() | {"name": list(name)})
    if saved:
        registry.save_alias_rights(conn, source.collection.name, saved[0] | {"others": saved[1:]})


def rebuild_dependents(conn: Connection, registry: Registry, source: Source, store: Manifest) -> None:
    """Inside a transaction: makes the view of what is active anew, under the name that is configured and those it had, and
    gives back the rights it had.
    """
    own, collection = alias_name(source), source.collection.name
    former = [name for name in names_of(registry.alias(conn, collection)) if name != own]
    rights = rights_for(conn, own, former)
    for name in (own, *former):
        put_view(conn, source, store, name)
    registry.save_encoder(conn, collection, own, encoder_of(store.record, source, former))
    conn.execute("select pg_notify(%s, %s)", (CHANNEL, collection))
    saved = registry.alias_rights(conn, collection)
    if saved:
        for one in (saved, *saved.get("others", [])):
            Rights.from_json(ident(*one.get("name", own)), one).restore(conn)
        registry.save_alias_rights(conn, collection, None)
        rights = Rights.from_json(ident(*own), saved) if former else None
    if rights:
        rights.restore(conn)


def drop_former(conn: Connection, registry: Registry, source: Source, _: Manifest) -> None:
    """Inside a transaction: the names that the alias had before go. Raises :class:`PlanError` where views depend on them."""
    alias = registry.alias(conn, source.collection.name)
    own, *former = names_of(alias)
    for name in former:
        try:
            conn.execute(sql.SQL("drop view if exists {}").format(ident(*name)))
        except pg.DependentObjectsStillExist as error:
            raise PlanError(
                f"{'.'.join(name)} can't be dropped, because other views depend on it: {error.diag.message_detail}",
                hint=f"create those on {'.'.join(own)}, then run the same command again",
            ) from error
    encoder = {key: value for key, value in ((alias and alias.encoder) or {}).items() if key != "former"}
    registry.save_encoder(conn, source.collection.name, own, encoder)
    conn.execute("select pg_notify(%s, %s)", (CHANNEL, source.collection.name))


def encoder_of(record: SpaceRecord, source: Source, former: list[Name]) -> dict[str, Any]:
    """What a reader needs to encode a query as the vectors were: the definition, and the hash of the weights.

    With it goes the collection as this view shows it, for readers that ask another version as well, and the names that it
    had before.
    """
    shown = {name: getattr(source.collection, name) for name in ("key", "alias", "where", "columns", "stale")}
    collection = shown | {
        "name": source.collection.name, "table": source.relation.as_string(),
        "text": [ident(name).as_string() for name in record.text_columns],
    }  # fmt: skip
    encoder = {"space": definition_of(record.space), "weights": record.weights, "collection": collection}
    if record.space.external:
        encoder["place"] = list(record.place)
    return encoder | ({"former": former} if former else {})


def space_of(encoder: dict[str, Any]) -> tuple[Space, str]:
    """The reverse of :func:`encoder_of`."""
    return Space(**encoder["space"]), encoder["weights"]


def collection_of(encoder: dict[str, Any]) -> Collection:
    """The collection as it was when the alias last moved. Raises :class:`UsageError` for an alias of an older embedmig."""
    shown = encoder.get("collection")
    if shown is None:
        raise UsageError(
            "the alias was made by an older embedmig, which didn't write down what it shows",
            hint=f"embedmig alias rebuild {encoder['space']['collection']} writes it",
        )
    lists = {name: tuple(shown[name]) for name in ("key", "text", "columns")}
    return Collection(**(shown | lists))


@dataclass(frozen=True, slots=True)
class Rights:
    """What a view loses when it is dropped: owner, comment and grants."""

    view: sql.Identifier
    owner: str
    comment: str | None
    grants: tuple[tuple[str, str, bool], ...]

    def as_json(self) -> dict[str, Any]:
        """For the time that the view is away."""
        return {"owner": self.owner, "comment": self.comment, "grants": [list(grant) for grant in self.grants]}

    @classmethod
    def from_json(cls, view: sql.Identifier, saved: dict[str, Any]) -> Rights:
        """The reverse of :meth:`as_json`."""
        return cls(view, saved["owner"], saved["comment"], tuple((g[0], g[1], g[2]) for g in saved["grants"]))

    def restore(self, conn: Connection) -> None:
        """Puts them back, in the same transaction. The owner first: grants to whoever runs this would merge into its own."""
        conn.execute(sql.SQL("alter view {} owner to {}").format(self.view, ident(self.owner)))
        for privilege, grantee, grantable in self.grants:
            role = sql.SQL("public") if grantee == "" else ident(grantee)
            option = sql.SQL(" with grant option") if grantable else sql.SQL("")
            with suppress(pg.UndefinedColumn), conn.transaction():  # a right on a column that the view shows no more
                conn.execute(sql.SQL("grant {} on {} to {}{}").format(literal(privilege), self.view, role, option))
        if self.comment is not None:
            conn.execute(sql.SQL("comment on view {} is {}").format(self.view, sql.Literal(self.comment)))


def save_rights(conn: Connection, schema: str, name: str) -> Rights | None:
    """Reads them from the catalog; None where there is no such view."""
    row = conn.execute(
        """select c.oid, pg_get_userbyid(c.relowner), obj_description(c.oid, 'pg_class') from pg_class c
           where c.relnamespace = to_regnamespace(%s) and c.relname = %s""",
        (ident(schema).as_string(conn), name),
    ).fetchone()
    if row is None:
        return None
    grants = conn.execute(
        """select privilege_type, case when grantee = 0 then '' else pg_get_userbyid(grantee) end, is_grantable
           from pg_class c, aclexplode(c.relacl) where c.oid = %(view)s and grantee <> c.relowner
           union all
           select format('%%s (%%I)', privilege_type, attname), case when grantee = 0 then '' else pg_get_userbyid(grantee) end, is_grantable
           from pg_attribute, aclexplode(attacl) where attrelid = %(view)s and attnum > 0""",
        {"view": row[0]},
    ).fetchall()
    return Rights(ident(schema, name), row[1], row[2], tuple((g[0], g[1], g[2]) for g in grants))


def blockers(conn: Connection, relations: Sequence[str]) -> list[str]:
    """Who holds locks on relations that a flip or an ALTER has to wait for: pid, age and query, oldest first."""
    rows = conn.execute(
        """select a.pid, a.state, date_trunc('second', now() - a.xact_start), left(regexp_replace(a.query, '\\s+', ' ', 'g'), 80)
           from pg_locks l join pg_stat_activity a using (pid)
           where l.relation = any(select to_regclass(name)::oid from unnest(%s::text[]) name) and l.granted and a.pid <> pg_backend_pid()
           group by a.pid, a.state, a.xact_start, a.query order by a.xact_start""",
        (list(relations),),
    ).fetchall()
    return [f"pid {pid} ({state}, for {age}): {query}" for pid, state, age, query in rows]

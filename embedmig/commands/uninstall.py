"""uninstall: removes everything that embedmig made in the database. Texts and adopted vectors stay."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from psycopg import errors as pg
from psycopg import sql

from embedmig.commands.project import ProjectLike, opened
from embedmig.database import Connection, RunLock, ident, refuse_standby, retry_transient, scalar, schema, translated
from embedmig.database.ledger import ledger_exists
from embedmig.database.registry import SpaceRecord
from embedmig.errors import PlanError
from embedmig.operations.base import Context
from embedmig.source.installed import InstalledTrigger, installed_functions, installed_triggers
from embedmig.stores import drop_collection, leave_aliases
from embedmig.stores.aliases import Name, names_of, save_rights
from embedmig.stores.presence import added_column, collection_in_words, made_tables, place_in_words


@dataclass(frozen=True, slots=True)
class RemovedView:
    """A view that applications read: the version it shows, its columns, and the roles that may read it beside its owner."""

    name: str
    collection: str
    version: str
    columns: list[str]
    readers: list[str]


@dataclass(frozen=True, slots=True)
class UninstallPlan:
    """What :func:`uninstall` removes, and what it leaves. ``collections`` are those of stores beside PostgreSQL. ``done``: it has
    been removed.
    """

    views: list[RemovedView] = field(default_factory=list)
    triggers: list[str] = field(default_factory=list)
    columns: list[str] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)
    functions: list[str] = field(default_factory=list)
    collections: list[str] = field(default_factory=list)
    removed_schema: str | None = None
    leaves: list[str] = field(default_factory=list)
    done: bool = False

    @property
    def empty(self) -> bool:
        """There is nothing of embedmig's in the database."""
        return not (self.views or self.triggers or self.columns or self.tables or self.functions or self.collections)


def uninstall(project: ProjectLike = None, *, confirm: bool = False) -> UninstallPlan:
    """Plans the removal of everything that embedmig made: views, triggers, columns it added, tables, functions, its schema.
    With ``confirm`` it is removed, in one transaction.

    Texts and adopted vectors are never touched. Raises :class:`PlanError` where something of the user's depends on what would
    go: nothing is removed then.
    """
    project = opened(project)
    if not confirm:
        with project.looking() as (context, conn):
            return Removal(context, conn).plan
    context = project.context(start=True)
    with RunLock(context.database), translated("uninstalling"), context.database.connect("operate") as conn:
        refuse_standby(conn)
        removal = Removal(context, conn)
        if not removal.plan.empty:
            retry_transient(removal.carry_out)
        return replace(removal.plan, done=True)


class Removal:
    """The plan, and the statements that carry it out."""

    def __init__(self, context: Context, conn: Connection) -> None:
        self.conn, self.registry, self.schema = conn, context.registry, context.database.schema
        self.declared = context.config.collections
        self.plan = UninstallPlan()
        if not ledger_exists(conn, self.schema):
            return
        self._refuse_unknown()
        records = self.registry.spaces(conn)
        self.views = [
            (alias.collection, alias.version or "", name)
            for alias in self.registry.aliases(conn) for name in names_of(alias) if self._is_view(*name)
        ]  # fmt: skip
        self.triggers = installed_triggers(conn, self.schema)
        self.columns = [column for record in records if (column := added_column(conn, record))]
        self.tables = self._tables(records)
        self.functions = [*installed_functions(conn, self.schema), *self._own_functions()]
        self.beside = [
            record for record in records
            if record.space.external and not record.adopted and (record.live or self._exists(*record.place[:2]))
        ]  # fmt: skip
        external = [record for record in records if record.space.external and record.live]
        self.reached = [record for record in self.beside if self._is_declared(record)]
        self.aliased = [record for record in external if self._is_declared(record)]
        self.plan = UninstallPlan(
            [self._view(*view) for view in self.views], [_trigger(one) for one in self.triggers],
            [".".join(column) for column in self.columns], [".".join(table) for table in self.tables],
            [f"{self.schema}.{name}" for name in self.functions],
            [collection_in_words(record) for record in self.reached], self.schema, self._leaves(records),
        )  # fmt: skip

    # --- what there is

    def _refuse_unknown(self) -> None:
        """Raises :class:`PlanError` where the tables are gone that say what there is."""
        gone = [name for name in ("spaces", "aliases") if not self._exists(self.schema, name)]
        if gone:
            drop = sql.SQL("drop schema {} cascade").format(ident(self.schema)).as_string(self.conn)
            raise PlanError(
                f"table {self.schema}.{gone[0]} is not there, which says what embedmig made; nothing was removed",
                hint=f"restore a backup; or {drop}   which takes its triggers and views with it, and leaves version columns",
            )

    def _is_declared(self, record: SpaceRecord) -> bool:
        found = self.declared.get(record.collection)
        return found is not None and record.space.store in found.stores

    def _exists(self, *name: str) -> bool:
        return scalar(self.conn, "select to_regclass(%s)", (ident(*name).as_string(self.conn),)) is not None

    def _is_view(self, *name: str) -> bool:
        """Whether a view has the name, and not a table that took its place."""
        kind = "select relkind from pg_class where oid = to_regclass(%s)"
        return bool(scalar(self.conn, kind, (ident(*name).as_string(self.conn),)) == "v")

    def _tables(self, records: list[SpaceRecord]) -> list[Name]:
        """Spaces, hashes of adopted vectors, outboxes and the ledger, as far as they are there."""
        found = [table for record in records for table in made_tables(record)]
        like = "select relname from pg_class where relnamespace = to_regnamespace(%s) and relkind = 'r' and relname ~ '^outbox_'"
        outboxes = [row[0] for row in self.conn.execute(like, (ident(self.schema).as_string(self.conn),))]
        found += [(self.schema, name) for name in (*outboxes, *schema.TABLES)]
        return [table for table in dict.fromkeys(found) if self._exists(*table)]

    def _own_functions(self) -> list[str]:
        query = "select proname from pg_proc where pronamespace = to_regnamespace(%s) and proname = any(%s)"
        values = (ident(self.schema).as_string(self.conn), list(schema.FUNCTIONS))
        return [row[0] for row in self.conn.execute(query, values)]

    def _view(self, collection: str, version: str, name: Name) -> RemovedView:
        shown = self.conn.execute(
            "select attname from pg_attribute where attrelid = %s::regclass and attnum > 0 order by attnum",
            (ident(*name).as_string(self.conn),),
        )
        rights = save_rights(self.conn, *name)
        readers = {role or "public" for right, role, _ in rights.grants if right == "SELECT"} if rights else set()
        return RemovedView(".".join(name), collection, version, [row[0] for row in shown], sorted(readers))

    def _leaves(self, records: list[SpaceRecord]) -> list[str]:
        """What stays of what embedmig knew of."""
        gone = {".".join(column) for column in self.columns}
        left = ["the source tables, with their texts", "the extension vector"]
        for record in records:
            if record.adopted and record.space.external:
                name, fields = place_in_words(record)
                left.append(f"{name}: the adopted vectors of {record.version}, and {fields[0]} of its points")
            elif record.adopted:
                table, (vectors, version) = place_in_words(record)
                left.append(f"{table}.{vectors}: the adopted vectors of {record.version}")
                if f"{table}.{version}" not in gone and record.live:
                    left.append(f"{table}.{version}: was there before embedmig, or nothing says who added it")
        left += [
            f"collection {collection_in_words(record)}: the configuration no longer says how to reach it"
            for record in self.beside if record not in self.reached
        ]  # fmt: skip
        return list(dict.fromkeys(left))

    # --- removing it

    def carry_out(self) -> None:
        """All of it, or nothing."""
        try:
            with self.conn.transaction():
                self.conn.execute("set local lock_timeout = '500ms'")
                for statement in self._statements():
                    self.conn.execute(statement)
                for name in {record.collection: None for record in self.aliased}:
                    records = [record for record in self.aliased if record.collection == name]
                    leave_aliases(self.conn, self.declared[name], records)
                for record in self.reached:  # last: where a store fails, nothing of the database is gone
                    drop_collection(self.conn, self.declared[record.collection], record)
                if self._is_empty():
                    self.conn.execute(sql.SQL("drop schema {}").format(ident(self.schema)))
                else:
                    self.plan = replace(
                        self.plan,
                        removed_schema=None,
                        leaves=[*self.plan.leaves, f"schema {self.schema}: others use it"],
                    )
        except pg.DependentObjectsStillExist as error:
            raise PlanError(
                f"something that embedmig did not make depends on what would go: {error.diag.message_detail}",
                hint="drop or change it, then run the same command again; nothing was removed",
            ) from error

    def _statements(self) -> list[sql.Composed]:
        """Views first, for they stand on the tables; nothing cascades."""
        drops = [sql.SQL("drop view {}").format(ident(*name)) for _, _, name in self.views]
        drops += [trigger.drop() for trigger in self.triggers]
        drops += [
            sql.SQL("alter table {} drop column {}").format(ident(table_schema, table), ident(column))
            for table_schema, table, column in self.columns
        ]
        if self.tables:
            drops.append(sql.SQL("drop table {}").format(sql.SQL(", ").join(ident(*table) for table in self.tables)))
        arguments = (
            "select oid::regprocedure::text from pg_proc where pronamespace = to_regnamespace(%s) and proname = any(%s)"
        )
        named = self.conn.execute(arguments, (ident(self.schema).as_string(self.conn), self.functions)).fetchall()
        return [*drops, *(sql.SQL("drop function {}").format(sql.SQL(row[0])) for row in named)]

    def _is_empty(self) -> bool:
        query = """select not exists (select from pg_class where relnamespace = n.oid)
                     and not exists (select from pg_proc where pronamespace = n.oid)
                   from pg_namespace n where n.oid = to_regnamespace(%s) and n.nspname <> 'public'"""
        return bool(scalar(self.conn, query, (ident(self.schema).as_string(self.conn),)))


def _trigger(one: InstalledTrigger) -> str:
    return f"{one.name} on {one.schema}.{one.table}"

"""flip_alias: the only moment at which reads change. View, registry and ledger move in one transaction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from psycopg import sql

from embedmig.database import Connection, ident
from embedmig.errors import AliasMoved, PlanError
from embedmig.operations.base import Operation, PlannedState, Run
from embedmig.stores import aliases, open_manifest, store_alias
from embedmig.stores.differences import Difference, view_differences
from embedmig.types import Estimate


@dataclass(frozen=True, slots=True)
class FlipAlias(Operation):
    """``version`` None takes the alias away and keeps the vectors."""

    kind: ClassVar[str] = "flip_alias"
    collection: str
    version: str | None

    def describe(self) -> str:
        if self.version is None:
            return f"remove the alias of {self.collection}; the vectors stay"
        return f"flip the alias of {self.collection} to {self.version}"

    def validate(self, plan: PlannedState) -> None:
        """The version must be there by then, and the alias's name free or the alias's own."""
        source = plan.source(self.collection)
        aliases.refuse_foreign(plan.conn, plan.context.registry, source)
        if self.version is not None:
            planned = plan.expect(self.collection, self.version)
            if not planned.has_vectors:
                raise PlanError(
                    f"flip_alias: {self.version} would be shown before anything has filled it",
                    hint="op.backfill(…) and op.gate(…) come first",
                )
        plan.flip(self.collection, self.version)

    def sql(self, plan: PlannedState) -> list[sql.Composable] | str:
        """The view; for a space that isn't there yet, its query stands on a table that create_space will make."""
        source = plan.source(self.collection)
        live = plan.alias(self.collection)
        names = list(dict.fromkeys([aliases.alias_name(source), *aliases.names_of(live)]))
        if self.version is None:
            shown = aliases.names_of(live) or names
            return [sql.SQL("drop view if exists {}").format(ident(*name)) for name in shown]
        planned = plan.expect(self.collection, self.version)
        record = planned.record or planned.draft
        if record is None:
            return f"{self.version} is not there by then"
        manifest = open_manifest(source, record)
        return [aliases.view_statement(source, manifest, replace=True, name=name) for name in names]

    def estimate(self, plan: PlannedState) -> Estimate:
        """It takes no time; the note says which differences between configuration and view it carries out."""
        found = [] if self.version is None else carried_out(plan.live_differences(self.collection))
        return Estimate(note="; ".join([*found, *self._other_columns(plan)]))

    def _other_columns(self, plan: PlannedState) -> list[str]:
        """What a flip between PostgreSQL and a store beside it means for who reads the view."""
        after = plan.spaces.get((self.collection, self.version or ""))
        live = plan.alias(self.collection)
        shown = plan.spaces.get((self.collection, (live and live.version) or ""))
        if not after or not shown or after.space.external == shown.space.external:
            return []
        gone, comes = ("embedding", "point_id") if after.space.external else ("point_id", "embedding")
        return [f"the view is made anew: {gone} goes, {comes} comes"]

    def prepare(self, run: Run) -> None:
        """The alias of a store beside PostgreSQL goes first: intent, the store's alias, and what :meth:`apply` commits."""
        context, source = run.context, run.context.source(run.conn, self.collection)
        if self.version is not None and not context.config.stores:
            return
        records = context.registry.spaces(run.conn, self.collection)
        current = context.registry.alias(run.conn, self.collection)
        showing = current.version if current else None
        if showing == self.version or showing != run.aliases.get(self.collection):
            return
        by_version = {record.version: record for record in records}
        if self.version is None:
            if store := store_alias.has_alias(source, by_version.get(showing or "")):
                store_alias.remove_alias(store)
            return
        if store := store_alias.has_alias(source, by_version.get(self.version)):
            with run.conn.transaction():
                context.ledger.fence(run.conn, run.attempt)
                context.registry.want_alias(run.conn, self.collection, aliases.alias_name(source), self.version)
            try:
                store_alias.refuse_stranger(run.conn, store, records, current)
                store_alias.set_alias(run.conn, store)
            except AliasMoved:
                context.registry.want_alias(run.conn, self.collection, aliases.alias_name(source), None)
                raise

    def withdraw(self, run: Run) -> None:
        """The store's alias shows again what the registry does."""
        context, source = run.context, run.context.source(run.conn, self.collection)
        current = context.registry.alias(run.conn, self.collection)
        records = {record.version: record for record in context.registry.spaces(run.conn, self.collection)}
        if current is None or current.version == self.version:
            return
        if store := store_alias.has_alias(source, records.get(current.version or "")):
            store_alias.set_alias(run.conn, store)
        elif store := store_alias.has_alias(source, records.get(self.version or "")):
            store_alias.remove_alias(store)
        if current.wanted:
            context.registry.want_alias(run.conn, self.collection, aliases.alias_name(source), None)

    def apply(self, run: Run, conn: Connection) -> str:
        """Compare and set: if the alias moved since the plan was made, nothing happens."""
        context = run.context
        source = context.source(conn, self.collection)
        current = context.registry.alias(conn, self.collection, lock=True)
        showing = current.version if current else None
        if showing == self.version and current is not None:
            return "shows it already"
        if showing != run.aliases.get(self.collection):
            raise AliasMoved(
                f"the alias of {self.collection} shows {showing}, not {run.aliases.get(self.collection)} as the revisions before left it",
                hint="look at embedmig status, then run the same command again",
            )
        if self.version is None:
            aliases.remove(conn, context.registry, source)
            return "removed"
        record = context.registry.space(conn, self.collection, self.version)
        if record is None or not record.live:
            raise AliasMoved(f"{self.version} is no longer there to be shown; nothing was flipped")
        also = carried_out(view_differences(current, source.collection, source)) if current and showing else []
        aliases.point(conn, context.registry, source, context.manifest(conn, record), record, current)
        return "; ".join([f"{showing or 'nothing'} → {self.version}", *also])

    def undo(self, before: str | None) -> tuple[Operation, ...]:
        """Back to what was shown before, behind a gate of its own."""
        from embedmig.operations.gate import Gate

        gate = () if before is None else (Gate(self.collection, before),)
        return (*gate, FlipAlias(self.collection, before))


def carried_out(found: list[Difference]) -> list[str]:
    """What a flip changes of the view beside the version, in words."""
    said = [f"{one.key}: {one.live} → {one.configured}" for one in found if one.way == "alias rebuild"]
    if name := next((one.live for one in found if one.key == "alias"), None):
        said.append(f"{name} stays as a second name until embedmig alias drop {found[0].collection} --old")
    return said

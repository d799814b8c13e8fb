"""flip_alias: the only moment at which reads change. View, registry and ledger move in one transaction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from psycopg import sql

from embedmig.database import Connection, ident
from embedmig.database.registry import AliasRecord, SpaceRecord
from embedmig.errors import AliasMoved, EmbedmigError, PlanError
from embedmig.operations.base import Operation, PlannedState, Run
from embedmig.operations.carrying import settle
from embedmig.stores import aliases, open_manifest, store_alias
from embedmig.stores.differences import Difference, view_differences
from embedmig.types import Estimate

if TYPE_CHECKING:
    from embedmig.stores.external import ExternalStore


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
        if not after or not shown:
            return []
        if after.space.external and shown.space.external and after.adopted != shown.adopted:
            return [f"the view is made anew: point_id is {'text' if after.adopted else 'uuid'}"]
        if after.space.external == shown.space.external:
            return []
        gone, comes = ("embedding", "point_id") if after.space.external else ("point_id", "embedding")
        return [f"the view is made anew: {gone} goes, {comes} comes"]

    def prepare(self, run: Run) -> None:
        """The alias of a store beside PostgreSQL goes first: intent, the store's alias, and what :meth:`apply` commits."""
        prepare_together(run, (self,))

    def settle_cuts(self, run: Run) -> None:
        """Thresholds of the collection get their values for the version first, so that no read with one breaks at the flip.
        Raises :class:`CutUnknown`.
        """
        context = run.context
        if self.version is None or not context.config.collection(self.collection).cuts:
            return
        target = run.record(self.collection, self.version)
        alias = context.registry.alias(run.conn, self.collection)
        shown = context.registry.space(run.conn, self.collection, alias.version) if alias and alias.version else None
        run.guard()  # measuring may ask models: in no transaction, and a value of a version that is not shown harms nobody
        settle(context, run.conn, target, shown)

    def in_store(self, run: Run) -> StoreAlias | None:
        """What there is to do beside PostgreSQL: nothing where no store has an alias to be moved, or where it can't be moved."""
        context, source = run.context, run.context.source(run.conn, self.collection)
        if self.version is not None and not context.config.stores:
            return None
        records = context.registry.spaces(run.conn, self.collection)
        current = context.registry.alias(run.conn, self.collection)
        showing = current.version if current else None
        if showing == self.version or showing != run.aliases.get(self.collection):
            return None
        wanted = next((record for record in records if record.version == (self.version or showing)), None)
        store = store_alias.has_alias(source, wanted)
        return StoreAlias(self, store, records, current) if store else None

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
            store_alias.give_back(run.conn, source, store, list(records.values()))
        if current.wanted:
            context.registry.want_alias(run.conn, self.collection, aliases.alias_name(source), None)

    def apply(self, run: Run, conn: Connection) -> str:
        """Compare and set: if the alias moved since the plan was made, nothing happens."""
        move = self.checked(run, conn)
        move.carry_out()
        return move.outcome

    def checked(self, run: Run, conn: Connection) -> Move:
        """What is to be done, with the alias locked. Raises :class:`AliasMoved`."""
        context = run.context
        source = context.source(conn, self.collection)
        current = context.registry.alias(conn, self.collection, lock=True)
        showing = current.version if current else None
        if showing == self.version and current is not None:
            return Move("shows it already", lambda: None)
        if showing != run.aliases.get(self.collection):
            raise AliasMoved(
                f"the alias of {self.collection} shows {showing}, not {run.aliases.get(self.collection)} as the revisions before left it",
                hint="look at embedmig status, then run the same command again",
            )
        if self.version is None:
            return Move("removed", lambda: aliases.remove(conn, context.registry, source))
        record = context.registry.space(conn, self.collection, self.version)
        if record is None or not record.live:
            raise AliasMoved(f"{self.version} is no longer there to be shown; nothing was flipped")
        also = carried_out(view_differences(current, source.collection, source)) if current and showing else []
        manifest = context.manifest(conn, record)
        return Move(
            "; ".join([f"{showing or 'nothing'} → {self.version}", *also]),
            lambda: aliases.point(conn, context.registry, source, manifest, record, current),
        )


@dataclass(frozen=True, slots=True)
class Move:
    """A flip that may be carried out in its transaction, and what the journal says of it."""

    outcome: str
    carry_out: Callable[[], None]


@dataclass(frozen=True, slots=True)
class StoreAlias:
    """A flip in a store that has an alias of its own: ``records`` are the collection's versions, ``current`` what is shown."""

    flip: FlipAlias
    store: ExternalStore
    records: list[SpaceRecord]
    current: AliasRecord | None

    def intend(self, run: Run, version: str | None) -> None:
        """Writes down where the flip leads; None: nowhere."""
        name = aliases.alias_name(self.store.source)
        run.context.registry.want_alias(run.conn, self.flip.collection, name, version)

    def refuse_stranger(self, run: Run) -> None:
        """Raises :class:`AliasMoved`."""
        store_alias.refuse_stranger(run.conn, self.store, self.records, self.current)

    def show(self, run: Run) -> None:
        """Sets it and reads it back, or gives it back. Raises :class:`StoreError`."""
        if self.flip.version is None:
            store_alias.give_back(run.conn, self.store.source, self.store, self.records)
        else:
            store_alias.set_alias(run.conn, self.store)


def prepare_together(run: Run, flips: Sequence[FlipAlias]) -> None:
    """The intent of all in one transaction, then each store's alias. Where one of them is refused, none is moved; where a store
    fails, those that were moved before it go back; its own intent stays, for the same command to finish.
    """
    for flip in flips:
        flip.settle_cuts(run)
    found = [one for flip in flips if (one := flip.in_store(run))]
    coming = [one for one in found if one.flip.version is not None]
    if coming:
        with run.conn.transaction():
            run.context.ledger.fence(run.conn, run.attempt)
            for one in coming:
                one.intend(run, one.flip.version)
    try:
        for one in coming:
            one.refuse_stranger(run)
    except AliasMoved:
        for one in coming:
            one.intend(run, None)
        raise
    moved: list[FlipAlias] = []
    try:
        for one in found:
            one.show(run)
            moved.append(one.flip)
    except EmbedmigError:
        for flip in moved:
            flip.withdraw(run)
        raise


def carried_out(found: list[Difference]) -> list[str]:
    """What a flip changes of the view beside the version, in words."""
    said = [f"{one.key}: {one.live} → {one.configured}" for one in found if one.way == "alias rebuild"]
    if name := next((one.live for one in found if one.key == "alias"), None):
        said.append(f"{name} stays as a second name until embedmig alias drop {found[0].collection} --old")
    return said

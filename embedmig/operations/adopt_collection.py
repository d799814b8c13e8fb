"""adopt_space of a store beside PostgreSQL: points that were there before embedmig stay where they are and get a version.

The collection is listed and compared with the source, and refused where too many points fit no row; the version is written onto
every point that carries none; the registry and the table that names the points are committed together. A run that is killed in
between lists again: what was tagged is tagged.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from embedmig.database import Connection
from embedmig.database.registry import SpaceRecord
from embedmig.errors import Interrupted, PlaceMissing, PlanError
from embedmig.events import Notice
from embedmig.operations.base import Operation, PlannedState, Run
from embedmig.operations.create_space import draft
from embedmig.source import Source, checks
from embedmig.stores import ask_server
from embedmig.stores.adopted_place import AdoptedPlace, check_key
from embedmig.stores.external_adopted import AdoptedManifest, Matched
from embedmig.stores.kinds import external_class, open_external
from embedmig.stores.manifest_table import refuse_taken_names
from embedmig.types import Progress, Space


@dataclass(frozen=True, slots=True)
class AdoptCollection(Operation):
    """``unmatched`` is the share of points that may be left out because they fit no row."""

    kind: ClassVar[str] = "adopt_space"
    space: Space
    store: str
    collection: str
    key: str
    unmatched: float

    @property
    def transactional(self) -> bool:
        """Online: the store is listed and its points are marked outside any transaction."""
        return False

    def describe(self) -> str:
        return f"adopt {self.collection} of {self.store} as space {self.space.tag} of {self.space.collection}"

    def validate(self, plan: PlannedState) -> None:
        """The collection must be there, of the space's dimensions and metric, and the key one column."""
        self._check()
        source = plan.source(self.space.collection)
        refuse_taken_names(source, "point_id")
        checks.check_table(source)
        checks.check_key(plan.conn, source)
        if len(source.key) != 1:
            raise PlanError(
                f"adopt_space: the key of {self.space.collection!r} has {len(source.key)} columns, and a point's key is one value",
                hint="give the table one column that is the key, and name it in the configuration",
            )
        if not external_class(self.space, plan.context.config.stores).adoptable:
            raise PlanError(f"adopt_space: what others have made in {self.store} can't be adopted")
        planned = plan.claim(self.space, adopted=True)
        planned.has_vectors = True
        planned.draft = self._record(source, plan.context.database.schema, plan.revision)
        if not plan.offline:
            ask_server(source, planned.record or planned.draft)
            self._check_collection(source, planned.record or self._resolved(plan.conn, source, planned.draft))

    def _check(self) -> None:
        if self.space.store != self.store:
            raise PlanError(
                f"adopt_space: the space's vectors are in {self.space.store}, not in {self.store}",
                hint=f'Space(…, store="{self.store}")',
            )
        if self.space.chunk:
            raise PlanError("adopted vectors are one a row, so a space with chunks can't be adopted")
        check_key(self.key)
        if not 0 <= self.unmatched <= 1:
            raise PlanError(f"adopt_space: unmatched {self.unmatched} is not a share", hint="0 to 1, such as 0.01")

    def _record(self, source: Source, schema: str, revision: str) -> SpaceRecord:
        """The registry's entry, with the collection as the script names it."""
        made = draft(self.space, source, schema, revision, "")
        place = AdoptedPlace(schema, made.place[1], self.key, "", self.collection)
        return replace(made, state="ready", adopted=True, place=place.as_place, writer="application")

    def _check_collection(self, source: Source, record: SpaceRecord) -> None:
        store = open_external(source, record)
        found = store.attempt(store.describe)
        if found is None:
            raise PlaceMissing(
                f"adopt_space: collection {store.name!r} is not in {self.store}", hint="look at its name, and at url in "
                f"[stores.{self.store}]"
            )  # fmt: skip
        if (found.dimensions, found.metric) != (self.space.dimensions, self.space.metric):
            raise PlanError(
                f"adopt_space: {store.name} of {self.store} holds {found.dimensions} dimensions by {found.metric}, "
                f"the space says {self.space.dimensions} by {self.space.metric}",
                hint=f'dimensions={found.dimensions}, metric="{found.metric}", and the model that made them',
            )
        store.check_adoptable()

    def sql(self, plan: PlannedState) -> str:
        return "not SQL: lists the collection, and writes its version onto points that carry none"

    def run(self, run: Run) -> str:
        """Registers the space when every point that can be tagged is."""
        context, conn = run.context, run.conn
        known = context.registry.space(conn, self.space.collection, self.space.tag)
        if known and known.live:
            return "was adopted"
        source = context.source(conn, self.space.collection)
        record = self._resolved(conn, source, self._record(source, context.database.schema, run.revision))
        manifest = AdoptedManifest(source, record)
        if manifest.place.collection != self.collection != manifest.place.alias:
            run.report(Notice(
                f"{self.collection} is an alias of {self.store}: a flip moves it where store_alias in "
                f"[collections.{self.space.collection}] names it"
            ))  # fmt: skip
        found = manifest.look(conn)
        self._refuse(found)
        manifest.tag_points(conn, lambda done, total: self._after(run, done, total))
        with conn.transaction():
            context.ledger.fence(conn, run.attempt)
            conn.execute(manifest.drop_sql())  # of a version that was released
            conn.execute(manifest.create_sql())
            manifest.fill(conn)
            if known:
                context.registry.renew_space(conn, known.id, record)
            else:
                context.registry.add_space(conn, record)
        left = f"; not adopted: {found.in_words}" if found.left else ""
        return f"{found.points - found.left:,} of {found.points:,} points tagged in place{left}"

    def _resolved(self, conn: Connection, source: Source, record: SpaceRecord) -> SpaceRecord:
        """By the collection's own name, where the script names an alias; with the store's alias that shows it."""
        store = open_external(source, record)
        if not store.capabilities.alias:
            return record
        collection = store.attempt(lambda: store.alias_target(self.collection)) or store.name
        alias = store.alias_name if store.alias(conn) == collection else ""
        return replace(
            record, place=AdoptedPlace.of(record.place)._replace(collection=collection, alias=alias).as_place
        )

    def _refuse(self, found: Matched) -> None:
        if found.share > self.unmatched:
            raise PlanError(
                f"adopt_space: of {found.points:,} points of {self.collection} {found.left:,} can't be adopted, {found.share:.2%}; "
                f"{self.unmatched:.2%} are allowed: {found.in_words}; nothing was written",
                hint=f"mend them, or allow them in the script: unmatched={min(1.0, round(found.share + 0.00005, 4)):g}",
            )

    def _after(self, run: Run, done: int, total: int) -> None:
        run.guard()
        run.report(Progress("tagging", done, total, ""))
        if run.stop.is_set():
            raise Interrupted("stopped while points were tagged", hint="run the same command again")

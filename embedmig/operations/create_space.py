"""create_space: a table for the vectors, and the configuration that makes them, written down."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import ClassVar

from psycopg import sql

from embedmig.database import Connection
from embedmig.database.registry import SpaceRecord, definition_of
from embedmig.embedders.matryoshka import cut_warning
from embedmig.operations.base import Operation, PlannedSpace, PlannedState, Run
from embedmig.source import Source, capture, checks
from embedmig.stores import ask_server, check_capabilities, check_keys, open_manifest, store_class
from embedmig.stores.presence import describe_place
from embedmig.types import Space, fingerprint


@dataclass(frozen=True, slots=True)
class CreateSpace(Operation):
    kind: ClassVar[str] = "create_space"
    space: Space

    def describe(self) -> str:
        return f"create space {self.space.tag} of {self.space.collection}" + details(self.space)

    def validate(self, plan: PlannedState) -> None:
        """Table, columns and key must be there, the tag free or its own, and the model must answer."""
        store = store_class(self.space, plan.context.config.stores)
        store.check_server(plan.conn, looking=plan.offline)
        source = plan.source(self.space.collection)
        store.check_source(source)
        check_capabilities(self.space, store.capabilities)
        checks.check_source(plan.conn, source)
        planned = plan.claim(self.space, adopted=False)
        planned.draft = draft(self.space, source, plan.context.database.schema, plan.revision, "")
        if not plan.offline:
            ask_server(source, planned.draft)
            checks.check_filter(plan.conn, source)
            if source.collection.capture == "triggers":
                capture.refuse_without_trigger_right(plan.conn, source)
        self.check_model(plan, planned)

    def check_model(self, plan: PlannedState, planned: PlannedSpace) -> None:
        """It must answer; a dry run calls none, and whoever looks need not be who runs it."""
        created, pinned = planned.record is not None, planned.record.weights if planned.record else ""
        if plan.offline:
            plan.context.refuse_unknown_model(self.space, pinned, created=created)
        else:
            plan.context.probe(self.space, pinned, created=created)

    def sql(self, plan: PlannedState) -> list[sql.Composable] | str:
        """The table, and what captures changes of the source; the registry's entry is embedmig's own business."""
        source = plan.source(self.space.collection)
        statements: list[sql.Composable] = []
        for one in store_class(self.space, plan.context.config.stores).server_sql(plan.conn):
            if one not in plan.prepared:
                plan.prepared.append(one)
                statements.append(one)
        planned = plan.expect(self.space.collection, self.space.tag)
        if planned.record is None and planned.draft:
            statements.append(open_manifest(source, planned.draft).create_sql())
        return statements + capture_statements(plan, source, columns=self.space.external) or "is there already"

    def apply(self, run: Run, conn: Connection) -> str:
        """Registers the space and makes its table, both or neither."""
        return self.make(run, conn, None)

    def make(self, run: Run, conn: Connection, weights: str | None) -> str:
        """As :meth:`apply`; ``weights`` are those of the model, None: it says them itself."""
        source = run.context.source(conn, self.space.collection)
        text = [column.name for column in source.text]
        check_keys(conn, run.context.registry, source)
        known = run.context.registry.space(conn, self.space.collection, self.space.tag)
        if known and known.live:
            capture.install(conn, run.context.registry, source, text)
            return "was there"
        if weights is None:
            weights = run.context.encoder(self.space).embedder.weights()
        record = draft(self.space, source, run.context.database.schema, run.revision, weights)
        if known:
            open_manifest(source, known).finish_drop(conn)
        open_manifest(source, record).create(conn)
        if known:
            run.context.registry.renew_space(conn, known.id, record)
        else:
            run.context.registry.add_space(conn, record)
        # Before the backfill's first read: from here on every commit is captured, and what is older is there to be read.
        capture.install(conn, run.context.registry, source, text)
        return describe_place(record)


def details(space: Space) -> str:
    """What shapes the vectors and doesn't stand in the tag, in words."""
    found = [f"queries by {space.query_model}"] if space.query_model else []
    found += [
        f"{role}: " + ", ".join(f"{name} {json.dumps(value)}" for name, value in options.items())
        for role, options in space.roles.items()
    ]
    found += [warned] if (warned := cut_warning(space)) else []
    return f" ({'; '.join(found)})" if found else ""


def capture_statements(plan: PlannedState, source: Source, *, columns: bool = False) -> list[sql.Composable]:
    """What installs the capture of a collection's changes, where it is not installed by then; ``columns``: of those too."""
    name = source.collection.name
    if name in plan.captured:
        return []
    plan.captured.add(name)
    text = [column.name for column in (*source.text, *(source.columns if columns else ()))]
    return list(capture.planned(plan.conn, plan.context.database.schema, source, text))


def draft(space: Space, source: Source, schema: str, revision: str, weights: str) -> SpaceRecord:
    """The registry's entry of a space that is about to be made."""
    text = tuple(column.name for column in source.text)
    mark = fingerprint(space, text)
    return SpaceRecord(
        id=0, collection=space.collection, version=space.tag, fingerprint=mark, revision=revision, state="building",
        adopted=False, place=store_class(space, source.collection.stores).new_place(space, mark, schema), writer="embedmig", definition=definition_of(space), text_columns=text, weights=weights,
        state_since=None, ledger_schema=schema,
    )  # fmt: skip

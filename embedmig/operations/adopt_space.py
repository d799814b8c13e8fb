"""adopt_space: vectors that were there before embedmig stay where they are and get a version.

``ADD COLUMN … DEFAULT`` tags every existing row without rewriting the table; the default is dropped in the same
transaction, so that a writer who sets no version from then on is visible as untagged instead of mislabelled.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from psycopg import sql

from embedmig.database import Connection
from embedmig.database.ledger import ledger_exists
from embedmig.database.registry import SpaceRecord
from embedmig.errors import PlanError
from embedmig.operations.base import Operation, PlannedState, Run
from embedmig.operations.create_space import capture_statements, draft
from embedmig.source import Source, capture, checks
from embedmig.stores import Adoption, check_keys, open_manifest
from embedmig.types import Space


@dataclass(frozen=True, slots=True)
class AdoptSpace(Operation):
    kind: ClassVar[str] = "adopt_space"
    space: Space
    table: str
    column: str
    version_column: str
    writer: Literal["application", "embedmig"]

    def describe(self) -> str:
        return f"adopt {self.table}.{self.column} as space {self.space.tag} of {self.space.collection}"

    def validate(self, plan: PlannedState) -> None:
        """The column must be the collection's own, of the right type and length, and the version column free."""
        source = plan.source(self.space.collection)
        if self.space.chunk:
            raise PlanError("adopted vectors are one a row, so a space with chunks can't be adopted")
        checks.check_table(source)
        checks.check_key(plan.conn, source)
        if self.writer == "embedmig" and source.collection.capture == "triggers":
            capture.refuse_without_trigger_right(plan.conn, source)
        planned = plan.claim(self.space, adopted=True)
        self._adoption(source).check(plan.conn, tagged=planned.record is not None)
        planned.has_vectors = True
        drafted = self._draft(source, plan.context.database.schema, plan.revision)
        planned.draft = replace(drafted, id=self._number(plan))

    def _adoption(self, source: Source) -> Adoption:
        return Adoption(source, self.space, self.table, self.column, self.version_column)

    def sql(self, plan: PlannedState) -> list[sql.Composable] | str:
        """What tags the rows, and where embedmig writes from then on, the table of what it wrote and the capture of changes."""
        source = plan.source(self.space.collection)
        planned = plan.expect(self.space.collection, self.space.tag)
        known, record = planned.record, planned.record or planned.draft
        if known and known.writer == self.writer:
            return "was adopted"
        statements: list[sql.Composable] = [] if known else [*self._adoption(source).tag_sql(plan.conn)]
        if record and self.writer == "embedmig":
            statements += [open_manifest(source, record).create_sql(), *capture_statements(plan, source)]
        return statements or f"{self.version_column} is there already"

    def _number(self, plan: PlannedState) -> int:
        """That of the registry's entry, which names the table of what embedmig wrote: its old one, or the next that is free."""
        there = ledger_exists(plan.conn, plan.context.database.schema)
        registry = plan.context.registry
        known = registry.space(plan.conn, self.space.collection, self.space.tag) if there else None
        if known:
            return known.id
        made = [(one.space.collection, one.space.tag) for one in plan.spaces.values() if one.record is None]
        first = registry.next_number(plan.conn) if there else 1
        return first + made.index((self.space.collection, self.space.tag))

    def _draft(self, source: Source, schema: str, revision: str) -> SpaceRecord:
        place = self._adoption(source).place
        made = draft(self.space, source, schema, revision, "")
        return replace(made, state="ready", adopted=True, place=place, writer=self.writer)

    def apply(self, run: Run, conn: Connection) -> str:
        """Registers the space and tags the rows that are there, both or neither."""
        known = run.context.registry.space(conn, self.space.collection, self.space.tag)
        if known and known.live:
            return self._hand_over(run, conn, known)
        source = run.context.source(conn, self.space.collection)
        for statement in self._adoption(source).tag_sql(conn):
            conn.execute(statement)
        record = self._draft(source, run.context.database.schema, run.revision)
        registry = run.context.registry
        added = registry.renew_space(conn, known.id, record) if known else registry.add_space(conn, record)
        if self.writer == "embedmig":
            self._take_over(run, conn, added)
        return f"{run.context.store(conn, added).count(conn):,} vectors tagged in place"

    def _hand_over(self, run: Run, conn: Connection, known: SpaceRecord) -> str:
        """Adopted before: only who writes from now on may change."""
        if known.writer == self.writer:
            return "was adopted"
        run.context.registry.set_writer(conn, known.id, self.writer)
        if self.writer == "embedmig":
            self._take_over(run, conn, known)
        return f"written by {self.writer} from now on"

    def _take_over(self, run: Run, conn: Connection, record: SpaceRecord) -> None:
        """embedmig writes from here on: what changes must be captured, and what it wrote be known."""
        source = run.context.source(conn, self.space.collection)
        conn.execute(run.context.manifest(conn, record).create_sql())
        check_keys(conn, run.context.registry, source)
        capture.install(conn, run.context.registry, source, [column.name for column in source.text])

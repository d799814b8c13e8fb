"""adopt_space: vectors that were there before embedmig stay where they are and get a version.

``ADD COLUMN … DEFAULT`` tags every existing row without rewriting the table; the default is dropped in the same
transaction, so that a writer who sets no version from then on is visible as untagged instead of mislabelled.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from psycopg import sql

from embedmig.database import Connection, ident, scalar
from embedmig.database.registry import SpaceRecord
from embedmig.errors import PlanError
from embedmig.operations.base import Operation, PlannedState, Run
from embedmig.operations.create_space import draft
from embedmig.source import Column, Source, capture, find_table, list_columns, pick
from embedmig.source import table as sources
from embedmig.stores.pgvector.adopted import AdoptedWriter
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
        if find_table(plan.conn, replace(source.collection, table=self.table))[0] != source.oid:
            raise PlanError(
                f"adopt_space: {self.table} is not the table of collection {self.space.collection!r} ({source.collection.table})",
                hint="vectors are adopted where the texts are",
            )
        known = list_columns(plan.conn, source.oid)
        column = pick(known, self.column, source.collection, "embedding")
        sources.check_key(plan.conn, source)
        if self.writer == "embedmig" and source.collection.capture == "triggers":
            capture.refuse_without_trigger_right(plan.conn, source)
        self._check_type(plan.conn, source, column)
        planned = plan.claim(self.space, adopted=True)
        if planned.record is None:
            self._check_version_column(known.get(self.version_column))
        planned.has_vectors = True

    def _check_type(self, conn: Connection, source: Source, column: Column) -> None:
        match = re.fullmatch(r"(?:\w+\.)?(vector|halfvec)(?:\((\d+)\))?", column.type)
        if match is None or match[1] != self.space.storage:
            raise PlanError(
                f"adopt_space: {self.table}.{column.name} is {column.type}, the space says {self.space.storage}",
                hint='storage="vector" or "halfvec", as the column is',
            )
        found = int(match[2]) if match[2] else self._other_length(conn, source, column)
        if found not in (None, self.space.dimensions):
            raise PlanError(
                f"adopt_space: {self.table}.{column.name} holds vectors of {found} dimensions, the space says {self.space.dimensions}",
                hint=f"dimensions={found}, and the model that made them",
            )

    def _other_length(self, conn: Connection, source: Source, column: Column) -> int | None:
        """A column of bare ``vector`` may hold several lengths."""
        query = sql.SQL("select vector_dims({c}) from {t} where {c} is not null and vector_dims({c}) <> {d} limit 1")
        found = scalar(
            conn, query.format(c=ident(column.name), t=source.relation, d=sql.Literal(self.space.dimensions))
        )
        return int(found) if found is not None else None

    def _check_version_column(self, column: Column | None) -> None:
        if column is not None and column.type not in ("text", "character varying"):
            raise PlanError(
                f"adopt_space: {self.table}.{self.version_column} is there already, as {column.type}",
                hint='version_column="…" names another',
            )

    def _statements(self, source: Source) -> list[sql.Composed]:
        values = {"table": source.relation, "column": ident(self.version_column), "tag": sql.Literal(self.space.tag)}
        return [
            sql.SQL("alter table {table} add column {column} text default {tag}").format(**values),
            sql.SQL("alter table {table} alter column {column} drop default").format(**values),
        ]

    def sql(self, plan: PlannedState) -> list[sql.Composable] | str:
        """Two statements that rewrite nothing; none where the column is there."""
        source = plan.source(self.space.collection)
        if self.version_column in list_columns(plan.conn, source.oid):
            return f"{self.version_column} is there already"
        return list(self._statements(source))

    def apply(self, run: Run, conn: Connection) -> str:
        """Registers the space and tags the rows that are there, both or neither."""
        if known := run.context.registry.space(conn, self.space.collection, self.space.tag):
            return self._hand_over(run, conn, known)
        source = run.context.source(conn, self.space.collection)
        if self.version_column not in list_columns(conn, source.oid):
            for statement in self._statements(source):
                conn.execute(statement)
        record = replace(
            draft(self.space, source, source.schema, run.revision, ""),
            state="ready", adopted=True, table_name=source.table, embedding_column=self.column,
            version_column=self.version_column, writer=self.writer,
        )  # fmt: skip
        added = run.context.registry.add_space(conn, record)
        if self.writer == "embedmig":
            self._take_over(run, conn, added)
        return f"{run.context.store(conn, added).vectors(conn):,} vectors tagged in place"

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
        conn.execute(AdoptedWriter(source, record).create())
        capture.install(conn, run.context.registry, source, [column.name for column in source.text])

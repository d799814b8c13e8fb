"""execute: SQL of the script's own, run once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from psycopg import sql

from embedmig.database import Connection, literal
from embedmig.errors import PlanError
from embedmig.operations.base import Operation, PlannedState, Run


@dataclass(frozen=True, slots=True)
class Execute(Operation):
    """``in_transaction`` is False for statements that PostgreSQL won't run inside one."""

    kind: ClassVar[str] = "execute"
    statement: str
    in_transaction: bool = True

    @property
    def transactional(self) -> bool:
        return self.in_transaction

    def describe(self) -> str:
        return f"execute {' '.join(self.statement.split())[:80]}"

    def validate(self, plan: PlannedState) -> None:
        """SQL can't be tried without running it; an empty one is a slip."""
        if not self.statement.strip():
            raise PlanError("op.execute has no statement")

    def sql(self, plan: PlannedState) -> list[sql.Composable] | str:
        return [literal(self.statement)]

    def apply(self, run: Run, conn: Connection) -> str:
        """Inside the transaction that also journals it."""
        return conn.execute(literal(self.statement)).statusmessage or "done"

    def run(self, run: Run) -> str:
        """On its own; a crash between it and its journal entry runs it again."""
        return run.conn.execute(literal(self.statement)).statusmessage or "done"

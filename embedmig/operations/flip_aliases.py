"""flip_aliases: several aliases move in one transaction: all of them, or none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from psycopg import sql

from embedmig.database import Connection
from embedmig.errors import PlanError
from embedmig.operations.base import Operation, PlannedState, Run
from embedmig.operations.flip_alias import FlipAlias, prepare_together
from embedmig.types import Estimate


@dataclass(frozen=True, slots=True)
class FlipAliases(Operation):
    """Each as :class:`FlipAlias` is by itself, in the order in which the script names them."""

    kind: ClassVar[str] = "flip_aliases"
    flips: tuple[FlipAlias, ...]

    def describe(self) -> str:
        targets = [f"{flip.collection} to {flip.version or 'nothing'}" for flip in self.flips]
        return f"flip the aliases of {', '.join(targets)}, in one transaction"

    def validate(self, plan: PlannedState) -> None:
        """What each flip needs."""
        if not self.flips:
            raise PlanError("flip_aliases names no collection", hint='op.flip_aliases({"docs": NEW_DOCS, …})')
        for flip in self.flips:
            flip.validate(plan)

    def sql(self, plan: PlannedState) -> list[sql.Composable] | str:
        """The views of all."""
        found: list[sql.Composable] = []
        for flip in self.flips:
            statements = flip.sql(plan)
            if isinstance(statements, str):
                return statements
            found += statements
        return found

    def estimate(self, plan: PlannedState) -> Estimate:
        """It takes no time; the note is that of each."""
        notes = [(flip.collection, flip.estimate(plan).note) for flip in self.flips]
        return Estimate(note="; ".join(f"{collection}: {note}" for collection, note in notes if note))

    def prepare(self, run: Run) -> None:
        """Stores' aliases go first, as for one flip."""
        prepare_together(run, self.flips)

    def withdraw(self, run: Run) -> None:
        """Of each."""
        for flip in self.flips:
            flip.withdraw(run)

    def apply(self, run: Run, conn: Connection) -> str:
        """All are checked before the first is moved: from then on readers wait."""
        moves = [flip.checked(run, conn) for flip in self.flips]
        for move in moves:
            move.carry_out()
        return "; ".join(f"{flip.collection}: {move.outcome}" for flip, move in zip(self.flips, moves, strict=True))


def flips_of(operation: Operation) -> tuple[FlipAlias, ...]:
    """The aliases that an operation moves, and where to."""
    match operation:
        case FlipAlias():
            return (operation,)
        case FlipAliases(flips):
            return flips
    return ()

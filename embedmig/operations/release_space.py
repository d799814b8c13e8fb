"""release_space: embedmig stops watching adopted vectors. They stay where they are; their column may then be dropped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from embedmig.database import Connection
from embedmig.database.registry import SpaceRecord
from embedmig.errors import AnswerIsNo, PlanError
from embedmig.operations.base import Context, Operation, PlannedState, Run
from embedmig.operations.retire_space import forget
from embedmig.stores.presence import drop_hashes, place_in_words


@dataclass(frozen=True, slots=True)
class ReleaseSpace(Operation):
    kind: ClassVar[str] = "release_space"
    collection: str
    version: str

    def describe(self) -> str:
        return f"release {self.version} of {self.collection}: embedmig no longer watches it, its vectors stay"

    def validate(self, plan: PlannedState) -> None:
        """The version must be an adopted one, and not the one that the alias shows by then."""
        planned = plan.expect(self.collection, self.version)
        if plan.aliases.get(self.collection) == self.version:
            raise PlanError(f"release_space: the alias of {self.collection!r} shows {self.version} at this point")
        if not planned.adopted:
            raise not_adopted(self.collection, self.version)
        del plan.spaces[self.collection, self.version]

    def sql(self, plan: PlannedState) -> str:
        return "not SQL of yours: embedmig's registry forgets what it watched"

    def apply(self, run: Run, conn: Connection) -> str:
        record = run.record(self.collection, self.version)
        if record.state == "released":
            return "was released"
        refuse_shown(run.context, conn, record)
        release(run.context, conn, record)
        return f"released; {free_to_drop(record)}"


def not_adopted(collection: str, version: str) -> PlanError:
    return PlanError(
        "only adopted versions are released; one that embedmig made is retired",
        hint=f"op.retire_space(…), or embedmig retire {collection} {version} --confirm {version}",
    )


def refuse_shown(context: Context, conn: Connection, record: SpaceRecord) -> None:
    """Raises :class:`AnswerIsNo` while the alias shows the version, :class:`PlanError` where embedmig made it."""
    if not record.adopted:
        raise not_adopted(record.collection, record.version)
    alias = context.registry.alias(conn, record.collection)
    if record.state == "active" or (alias and alias.version == record.version):
        raise AnswerIsNo(
            f"{record.version} is what the alias of {record.collection} shows",
            hint="flip the alias to another version first",
        )


def release(context: Context, conn: Connection, record: SpaceRecord) -> None:
    """Inside a transaction. Needs neither column nor table: they may be gone already."""
    drop_hashes(conn, record)
    forget(context, conn, record, "released")


def free_to_drop(record: SpaceRecord) -> str:
    """What the user may do with the columns now."""
    table, columns = place_in_words(record)
    if record.space.external:
        return f"{table} and the {columns[0]} of its points are left as they are"
    embedding, version = columns
    return f"{table}.{embedding} and its {version} may be dropped"

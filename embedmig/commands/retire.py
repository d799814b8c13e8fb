"""retire: drops the vectors of an old version."""

from __future__ import annotations

from dataclasses import dataclass

from embedmig.commands.project import Project, ProjectLike, opened
from embedmig.commands.spaces import named
from embedmig.database import Connection, RunLock
from embedmig.database.registry import SpaceRecord
from embedmig.errors import UsageError
from embedmig.operations.base import Context
from embedmig.operations.retire_space import finish, refuse_begun, refuse_early, refuse_unstable, retire_now

RETENTION = "21d"
"""How long a version is kept unless something else is said."""


@dataclass(frozen=True, slots=True)
class RetiredSpace:
    """What was dropped, and how long it took."""

    version: str
    bytes: int
    milliseconds: float


def retire(
    project: ProjectLike,
    collection: str,
    version: str,
    *,
    after: str = RETENTION,
    confirm: str | None = None,
    evals_stable: int | None = None,
) -> RetiredSpace:
    """Drops the vectors of a retained version, or of one that was never shown, for good. ``confirm`` is its full tag.

    Raises :class:`AnswerIsNo` while it has been retained for less than ``after``, while the last ``evals_stable``
    evaluations of the active version are not as good, or while the revision that makes it is partly applied.
    """
    project = opened(project)
    if evals_stable is not None and evals_stable < 1:
        raise UsageError(f"--evals-stable {evals_stable} is not above 0")
    with RunLock(project.context(start=True).database), project.working() as (context, conn):
        record = registered(project, context, conn, collection, version)
        if confirm != record.version:
            raise UsageError(f"retiring {record.version} can't be taken back", hint=f"--confirm {record.version}")
        if finish(context, conn, collection, record.version):  # a store failed, or the command was killed
            return RetiredSpace(record.version, 0, 0.0)
        refuse_begun(context, conn, record)
        if record.adopted or record.state not in ("building", "ready"):
            refuse_early(context, conn, record, after)
        if evals_stable is not None:
            refuse_unstable(context, conn, record, evals_stable)
        size = context.remains(conn, record).disk_bytes(conn, 0)  # adopted ones, whose size goes by it, are refused
        milliseconds = retire_now(context, conn, record)
    return RetiredSpace(record.version, size, milliseconds)


def registered(project: Project, context: Context, conn: Connection, collection: str, version: str) -> SpaceRecord:
    """The version that is named, in whatever state. Raises :class:`UnknownTarget` naming those there are."""
    project.config.collection(collection)
    found = context.registry.spaces(conn, collection)
    return named(found, found, collection, version)

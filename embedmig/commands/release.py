"""release: stops watching an adopted version."""

from __future__ import annotations

from dataclasses import dataclass

from embedmig.commands.project import ProjectLike, opened
from embedmig.commands.retire import registered
from embedmig.database import RunLock, retry_transient
from embedmig.operations.release_space import refuse_shown
from embedmig.operations.release_space import release as release_record
from embedmig.stores.presence import place_in_words


@dataclass(frozen=True, slots=True)
class ReleasedSpace:
    """The version that is no longer watched, and the columns that may be dropped now. Of a store beside PostgreSQL, ``table`` names
    the collection, and there are none.
    """

    version: str
    table: str
    columns: list[str]


def release(project: ProjectLike, collection: str, version: str) -> ReleasedSpace:
    """Stops watching an adopted version; its vectors stay where they are, and their column may be dropped.

    Raises :class:`AnswerIsNo` while the alias shows it, :class:`PlanError` for a version that embedmig made.
    """
    project = opened(project)
    with RunLock(project.context(start=True).database), project.working() as (context, conn):
        record = registered(project, context, conn, collection, version)
        refuse_shown(context, conn, record)

        def transaction() -> None:
            with conn.transaction():
                conn.execute("set local lock_timeout = '500ms'")
                release_record(context, conn, record)
                context.ledger.note_by_hand(conn, record.revision, record.version, "was released: it is not watched")

        if record.state != "released":
            retry_transient(transaction)
    place, columns = place_in_words(record)
    return ReleasedSpace(record.version, place, [] if record.space.external else columns)

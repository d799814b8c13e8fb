"""The report: everything that is known, on one page."""

from __future__ import annotations

from datetime import UTC, datetime

from embedmig.commands.migrating import plan
from embedmig.commands.project import Project
from embedmig.commands.standing import status
from embedmig.errors import EmbedmigError
from embedmig.ledger import Attempt, ledger_exists


def report(project: Project, *, now: datetime | None = None) -> str:
    """An HTML page. Works on an empty ledger too."""
    from embedmig.report.page import page

    found = status(project)
    return page(
        found,
        _attempts(project),
        threshold=project.config.gates.completeness,
        now=now or datetime.now(UTC),
        seconds=_seconds(project) if found.pending else None,
    )


def _attempts(project: Project) -> list[Attempt]:
    with project.looking() as (site, conn):
        return site.ledger.attempts(conn) if ledger_exists(conn, site.database.schema) else []


def _seconds(project: Project) -> float | None:
    """What is pending would take so long; None where that was never measured, or the plan is not valid."""
    try:
        known = plan(project).seconds.values()
    except EmbedmigError:
        return None
    times = [seconds for seconds in known if seconds is not None]
    return sum(times) if len(times) == len(known) else None

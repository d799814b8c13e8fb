"""What the report shows: everything that is known, in one place."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from embedmig.commands.launching import Launch, launch
from embedmig.commands.project import Project
from embedmig.commands.standing import Status, status
from embedmig.ledger import Attempt, ledger_exists


@dataclass(frozen=True, slots=True)
class Dossier:
    """The status, every attempt oldest first, the gate's threshold for completeness, and when what is pending could be
    live.
    """

    status: Status
    attempts: list[Attempt]
    threshold: float
    launch: Launch


def report(project: Project, *, now: datetime | None = None) -> Dossier:
    """Gathers it. Works on an empty ledger too, and wants SELECT alone."""
    found = status(project)
    when = launch(project, now or datetime.now(UTC))
    return Dossier(found, _attempts(project), project.config.gates.completeness, when)


def _attempts(project: Project) -> list[Attempt]:
    with project.looking() as (site, conn):
        return site.ledger.attempts(conn) if ledger_exists(conn, site.database.schema) else []

"""What the report shows: everything that is known, in one place."""

from __future__ import annotations

from dataclasses import dataclass

from embedmig.commands.migrating import plan
from embedmig.commands.project import Project
from embedmig.commands.standing import Status, status
from embedmig.errors import EmbedmigError
from embedmig.ledger import Attempt, ledger_exists


@dataclass(frozen=True, slots=True)
class Dossier:
    """The status, every attempt oldest first, the gate's threshold for completeness, and the seconds that what is
    pending would take at the rates last measured; None where they are not known.
    """

    status: Status
    attempts: list[Attempt]
    threshold: float
    seconds: float | None


def report(project: Project) -> Dossier:
    """Gathers it. Works on an empty ledger too, and wants SELECT alone."""
    found = status(project)
    seconds = _seconds(project) if found.pending else None
    return Dossier(found, _attempts(project), project.config.gates.completeness, seconds)


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

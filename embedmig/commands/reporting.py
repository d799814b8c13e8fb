"""What the report shows: everything that is known, in one place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from embedmig.audit import Audit
from embedmig.commands.auditing import audit
from embedmig.commands.migrating import plan
from embedmig.commands.project import Project
from embedmig.commands.proof import Proof, proof
from embedmig.commands.standing import Status, status
from embedmig.errors import EmbedmigError
from embedmig.ledger import Attempt, ledger_exists


@dataclass(frozen=True, slots=True)
class Dossier:
    """The status, every attempt oldest first, the gate's threshold for completeness, and the seconds that what is
    pending would take at the rates last measured; None where they are not known.

    ``proof`` is the evidence of each collection, ``audit`` what an audit found; None where none was asked for.
    ``with_text`` says whether queries and keys may be shown.
    """

    status: Status
    attempts: list[Attempt]
    threshold: float
    seconds: float | None
    proof: Mapping[str, Proof] = field(default_factory=dict)
    audit: Audit | None = None
    with_text: bool = False


def report(project: Project, *, audited: bool = False, with_text: bool = False) -> Dossier:
    """Gathers it. Works on an empty ledger too, and wants SELECT alone. ``audited`` reads every vector, and calls no model."""
    found = status(project)
    evidence, holdings = proof(project, with_text=with_text), audit(project) if audited else None
    seconds = _seconds(project) if found.pending else None
    return Dossier(
        found, _attempts(project), project.config.gates.completeness, seconds, evidence, holdings, with_text
    )  # fmt: skip


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

"""What the report shows: everything that is known, in one place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from embedmig.commands.audit import audit
from embedmig.commands.eta import Eta, launch
from embedmig.commands.project import Project
from embedmig.commands.evidence import Proof, proof
from embedmig.commands.status import Status, status
from embedmig.database.ledger import Attempt, ledger_exists
from embedmig.quality.audit import Audit


@dataclass(frozen=True, slots=True)
class Report:
    """The status, every attempt oldest first, the gate's threshold for completeness, and when what is pending could be
    live.

    ``proof`` is the evidence of each collection, ``audit`` what an audit found; None where none was asked for.
    ``with_text`` says whether queries and keys may be shown.
    """

    status: Status
    attempts: list[Attempt]
    threshold: float
    launch: Eta
    proof: Mapping[str, Proof] = field(default_factory=dict)
    audit: Audit | None = None
    with_text: bool = False


def report(project: Project, *, audited: bool = False, with_text: bool = False, now: datetime | None = None) -> Report:
    """Gathers it. Works on an empty ledger too, and wants SELECT alone. ``audited`` reads every vector, and calls no model."""
    found, when = status(project), launch(project, now or datetime.now(UTC))
    evidence, holdings = proof(project, with_text=with_text), audit(project) if audited else None
    return Report(found, _attempts(project), project.config.gates.completeness, when, evidence, holdings, with_text)


def _attempts(project: Project) -> list[Attempt]:
    with project.looking() as (context, conn):
        return context.ledger.attempts(conn) if ledger_exists(conn, context.database.schema) else []

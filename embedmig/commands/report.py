"""report: everything that is known, in one place. ``embedmig.report`` is a package, so the functions have names of their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from embedmig.commands.audit import audit
from embedmig.commands.eta import Eta, eta
from embedmig.commands.evidence import CollectionEvidence, evidence
from embedmig.commands.keeping import costs
from embedmig.commands.project import Project, ProjectLike, opened
from embedmig.commands.status import Status, status
from embedmig.database import clock
from embedmig.database.ledger import Attempt, ledger_exists
from embedmig.quality.audit import Audit
from embedmig.types import GONE


@dataclass(frozen=True, slots=True)
class Report:
    """The status, every attempt oldest first, the gate's threshold for completeness, and when what is pending could be
    live.

    ``evidence`` is that of each collection, ``costs`` what each live version takes a month, as ``keeping`` in :class:`SpaceStatus`;
    ``audit`` is what an audit found; None where none was asked for.
    ``with_text`` says whether queries and keys may be shown.
    """

    status: Status
    attempts: list[Attempt]
    threshold: float
    eta: Eta
    evidence: Mapping[str, CollectionEvidence] = field(default_factory=dict)
    costs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    audit: Audit | None = None
    with_text: bool = False


def gather_report(
    project: ProjectLike = None, *, audited: bool = False, with_text: bool = False, now: datetime | None = None
) -> Report:
    """What the report shows. Works on an empty ledger too, and wants SELECT alone.

    ``audited`` reads every vector, and calls no model.
    """
    project = opened(project)
    found = status(project)
    return Report(
        status=found,
        attempts=_attempts(project),
        threshold=project.config.gates.completeness,
        eta=eta(project, now or database_time(project)),
        evidence=evidence(project, with_text=with_text),
        costs=_monthly(project, found),
        audit=audit(project) if audited else None,
        with_text=with_text,
    )


def _monthly(project: Project, found: Status) -> dict[str, dict[str, Any]]:
    """What each version that is kept fresh takes a month at the present rate of change, by its tag."""
    spaces = {
        (name, space.version): space
        for name, collection in found.collections.items() if not collection.error
        for space in collection.spaces if space.state not in GONE and not space.fault
    }  # fmt: skip
    if not spaces:
        return {}
    with project.looking() as (context, conn):
        return {
            record.version: space.keeping or costs(context, conn, record, space.bytes)
            for (name, version), space in spaces.items()
            if (record := context.registry.space(conn, name, version)) is not None
        }


def database_time(project: Project) -> datetime:
    """The clock that times in the ledger are by."""
    with project.looking() as (_, conn):
        return clock(conn)


def _attempts(project: Project) -> list[Attempt]:
    with project.looking() as (context, conn):
        return context.ledger.attempts(conn) if ledger_exists(conn, context.database.schema) else []

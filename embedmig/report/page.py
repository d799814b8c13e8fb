"""The report: one self-contained HTML file, for a phone and for print. No vector, and no key or text without ``--with-text``."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from embedmig.commands.answers import BothAnswers, both_answers
from embedmig.commands.project import Project, ProjectLike, opened
from embedmig.commands.report import Report, database_time, gather_report
from embedmig.commands.status import Status
from embedmig.formatting import percent, size
from embedmig.gates.conditions import UNKNOWN_EDITS
from embedmig.report.decision import Decision, decide, distance, progress, slices
from embedmig.report.html import rendered, write_page
from embedmig.report.tables import keeping_costs, model_ends
from embedmig.types import Verdict

SHOWN_ATTEMPTS = 50
Answers = tuple[dict[int, BothAnswers], str]
"""By the query's number, and why there are none."""


def page(report: Report, *, now: datetime, answers: Mapping[str, Answers] | None = None) -> str:
    """Renders everything that is known as HTML; ``answers`` are those of both versions to the queries that changed most, by collection."""
    eta = report.eta
    return rendered(
        "report.html.j2",
        status=report.status,
        attempts=list(reversed(report.attempts))[:SHOWN_ATTEMPTS],
        threshold=report.threshold,
        made_at=f"{now:%Y-%m-%d %H:%M} UTC",
        launch=f"{eta.at.astimezone(UTC):%Y-%m-%d %H:%M}" if eta.at else None,
        launch_basis=eta.held_by,
        problems=problems(report.status),
        decisions=[one for one in (decision(report, name) for name in report.status.collections) if one],
        answers=answers or {},
        distance=distance,
        slices=lambda one: (
            slices(one, report.evidence[one.collection].tags) if one.collection in report.evidence else []
        ),
        progress=lambda side: progress(side.space, report.attempts, now, eta.at),
        evidences=report.evidence,
        audit=report.audit,
        with_text=report.with_text,
        advice=lambda gate: advice(gate, with_text=report.with_text),
        gates_of=lambda name, space: [*space.gates, *gates_on_evidence(report, name, space.version)],
        measures=measures,
        model_ends=model_ends,
        keeping_costs=keeping_costs,
        percent=percent,
        unknown_edits=UNKNOWN_EDITS,
        size=size,
    )


def write_report(
    project: ProjectLike = None,
    path: Path | str = "embedmig-report.html",
    *,
    audited: bool = False,
    with_text: bool = False,
    answered: bool = False,
) -> Path:
    """Gathers the report, writes it to ``path`` and returns that. Raises :class:`UsageError` where it can't be written.

    ``audited`` audits the store too: it reads every vector and calls no model. ``with_text`` shows the texts of
    queries, and keys. ``answered`` does so too, and asks both models for the queries that changed most, to show both answers.
    """
    project = opened(project)
    now = database_time(project)
    found = gather_report(project, audited=audited, with_text=with_text or answered, now=now)
    html = page(found, now=now, answers=_answers(project, found) if answered else None)
    return write_page(html, Path(path), "-o names another file")


def _answers(project: Project, report: Report) -> dict[str, Answers]:
    """Of each collection whose two versions were measured on one set, what they find for the queries that changed most."""
    found = {}
    for name in report.status.collections:
        one = decision(report, name)
        if one and one.changed and one.old and one.new and one.new.found:
            versions, numbers = (one.old.space.version, one.new.space.version), [number for number, *_ in one.changed]
            found[name] = both_answers(project, name, versions, one.new.found.golden_digest, numbers)
    return found


def gates_on_evidence(report: Report, collection: str, version: str) -> list[Verdict]:
    """The verdicts on evidence that the version's script requires."""
    found = report.evidence.get(collection)
    return found.gates.get(version, []) if found else []


def decision(report: Report, name: str) -> Decision | None:
    """Go, wait or stop, for one collection."""
    found, at = report.evidence.get(name), report.eta.at
    return decide(
        name,
        report.status.collections[name],
        found.evaluations if found else [],
        lambda space: [*space.gates, *gates_on_evidence(report, name, space.version)],
        report.attempts,
        f"{at.astimezone(UTC):%Y-%m-%d %H:%M}" if at else None,
        report.costs,
    )


def measures(found: Mapping[str, Any]) -> dict[str, Any]:
    """The measures of an evaluation, nDCG first: it is what gates ask for."""
    names = [name for name in found if "@" in name]
    return {name: found[name] for name in sorted(names, key=lambda name: (not name.startswith("ndcg"), name))}


def advice(gate: Verdict, *, with_text: bool) -> str:
    """What would open a gate; keys are left out without ``--with-text``."""
    if gate.name == "unaccounted_rows" and gate.advice and not with_text:
        return "missing, without a pending change; embedmig gate lists their keys"
    return gate.advice


def problems(status: Status) -> list[str]:
    """Problems that are shown at the top of the page."""
    found = [f"{name} was edited after it was applied" for name in status.edited]
    found += [f"{name} is applied and has no script" for name in status.missing_scripts]
    for name, collection in status.collections.items():
        found += [f"{name}: {collection.error}; {collection.hint or ''}"] if collection.error else []
        if collection.capture not in ("installed", "watermark", "none"):
            why = f" ({collection.capture_note})" if collection.capture_note else ""
            found.append(f"{name}: capture is {collection.capture}{why}: changes may go unnoticed")
        if collection.quality and collection.quality.answer == "worse":
            found.append(f"{name}: {collection.quality.words}; embedmig downgrade -1 goes back")
        found += [f"{name}: {collection.alias_fault}"] if collection.alias_fault else []
        found += [
            f"{name}: {space.version}: {space.fault}; {space.hint or ''}" for space in collection.spaces if space.fault
        ]
        found += [f"{name}: {one.in_words}; {one.command}" for one in collection.differences]
    return found

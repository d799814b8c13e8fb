"""The report: one self-contained HTML file, for a phone and for print. No vector, no key, no document text."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from embedmig.authoring import template_dir
from embedmig.commands.reporting import Dossier
from embedmig.commands.standing import Status
from embedmig.report.tables import percent, size

SHOWN_ATTEMPTS = 50


def page(dossier: Dossier, *, now: datetime, findings: Sequence[object] = ()) -> str:
    """Renders everything that is known as HTML."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(template_dir()), undefined=StrictUndefined, autoescape=True, trim_blocks=True
    )
    launch = dossier.launch
    return environment.get_template("report.html.j2").render(
        status=dossier.status,
        attempts=list(reversed(dossier.attempts))[:SHOWN_ATTEMPTS],
        threshold=dossier.threshold,
        made_at=f"{now:%Y-%m-%d %H:%M} UTC",
        launch=f"{launch.at.astimezone(UTC):%Y-%m-%d %H:%M}" if launch.at else None,
        launch_basis=launch.held_by,
        problems=problems(dossier.status),
        findings=findings,
        percent=percent,
        size=size,
    )


def problems(status: Status) -> list[str]:
    """What should not wait until somebody reads further down."""
    found = [f"{name} was edited after it was applied" for name in status.edited]
    found += [f"{name} is applied and has no script" for name in status.missing_scripts]
    for name, collection in status.collections.items():
        if collection.capture in ("missing", "disabled", "outdated"):
            found.append(f"{name}: capture is {collection.capture}: changes may go unnoticed")
    return found

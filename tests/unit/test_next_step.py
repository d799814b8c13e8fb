"""What status offers as the next command: the most urgent thing first, and nothing where there is nothing to do."""

from __future__ import annotations

import shlex
from dataclasses import replace
from typing import Any

import pytest
import typer

from embedmig.cli import app
from embedmig.commands.next_step import next_step
from embedmig.commands.project import PartlyDone
from embedmig.commands.status import CollectionStatus, SpaceStatus, Status
from embedmig.gates.quality_verdict import QualityVerdict

COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
MEASURED = QualityVerdict("first version", "", "m@1/dim-64")
DOCS = CollectionStatus(
    "a", "m@1/dim-64", 9, 0, 1.0, [SpaceStatus("m@1/dim-64", "0001", "active", 64)], "installed", quality=MEASURED
)
SETTLED = Status("db", ["0001"], ["0001"], [], None, [], [], {"docs": DOCS})
RUN = {"revision": "0002", "direction": "upgrade", "alive": True}
GATED = {"revision": "0002", "direction": "upgrade", "status": "gated"}


def docs(**changes: Any) -> dict[str, CollectionStatus]:
    return {"docs": replace(DOCS, **changes)}


@pytest.mark.parametrize(
    ("changes", "command"),
    [
        ({}, None),
        ({"collections": docs(quality=replace(MEASURED, answer="worse")), "running": RUN}, "embedmig downgrade -1"),
        ({"running": RUN, "pending": ["0002"]}, "embedmig status --watch"),
        ({"running": RUN | {"alive": False}}, "embedmig upgrade 0002"),
        ({"running": RUN | {"alive": False, "direction": "downgrade"}}, "embedmig downgrade -1"),
        ({"edited": ["0001"], "pending": ["0002"]}, "embedmig check"),
        ({"partly": [PartlyDone("0002", "partly_applied", [])], "pending": ["0002"]}, "embedmig upgrade 0002"),
        ({"collections": docs(capture="broken"), "pending": ["0002"]}, "embedmig sync --repair"),
        ({"collections": docs(alias_fault="gone")}, "embedmig alias rebuild docs"),
        ({"collections": docs(held_back="paused by me")}, "embedmig resume docs"),
        ({"pending": ["0002"]}, "embedmig upgrade --dry-run"),
        (
            {"pending": ["0002"], "last_attempt": GATED, "collections": docs(spaces=[*DOCS.spaces, replace(DOCS.spaces[0], state="ready")])},
            "embedmig gate docs",
        ),
        ({"collections": docs(quality=replace(MEASURED, answer="not measured"))}, "embedmig eval docs"),
        ({"heads": [], "current": []}, "embedmig revision --help"),
    ],
)  # fmt: skip
def test_the_most_urgent_thing_comes_first(changes: dict[str, Any], command: str | None) -> None:
    offered = next_step(replace(SETTLED, **changes))
    assert offered == command
    assert offered is None or shlex.split(offered)[1] in COMMANDS

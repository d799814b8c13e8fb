"""What to do next, as one command: the most urgent thing of a status."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from embedmig.commands.status import CollectionStatus, Status


def next_step(status: Status) -> str | None:
    """A command of embedmig; None where there is nothing to do."""
    return next(_steps(status), None)


def _steps(status: Status) -> Iterator[str]:
    """Every one there is, most urgent first: what applications read, what was begun, what waits, what is not known."""
    running = status.running
    for found in status.collections.values():
        if found.quality and found.quality.answer == "worse":
            yield "embedmig downgrade -1"
    if running and running["alive"]:
        yield "embedmig status --watch"
    if running:
        yield _again(running["revision"], running["direction"])
    if status.unreadable or status.edited or status.missing_scripts or status.unmade:
        yield "embedmig check"
    for one in status.partly:
        yield _again(one.revision, "upgrade")
    for name, found in status.collections.items():
        yield from _of_collection(name, found)
    if status.undeclared or any(found.error for found in status.collections.values()):
        yield "embedmig check"
    gated = status.last_attempt and status.last_attempt["status"] == "gated"
    if status.pending and gated:
        yield from (f"embedmig gate {name}" for name, found in status.collections.items() if _waits(found))
    if status.pending:
        yield "embedmig upgrade --dry-run"
    if not status.heads:
        yield "embedmig revision --help"
    for name, found in status.collections.items():
        if found.quality and found.quality.answer == "not measured":
            yield f"embedmig eval {name}"


def _of_collection(name: str, found: CollectionStatus) -> Iterator[str]:
    if found.capture not in ("installed", "watermark", "none"):
        yield "embedmig sync --repair"
    if found.alias_fault:
        yield f"embedmig alias rebuild {name}"
    yield from ("embedmig check" if one.way == "revision" else one.command for one in found.differences)
    if found.held_back and found.held_back.startswith("paused"):
        yield f"embedmig resume {name}"


def _again(revision: str, direction: str) -> str:
    """The command that goes on with a run that died."""
    return "embedmig downgrade -1" if direction == "downgrade" else f"embedmig upgrade {revision}"


def _waits(found: CollectionStatus) -> bool:
    return any(space.state in ("building", "ready") for space in found.spaces)

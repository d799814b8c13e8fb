"""The command line without the terminal: one function a command, returning dataclasses.

Commands that only look open a read-only session and want SELECT alone.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from embedmig.commands.asking import Found, gate, search
    from embedmig.commands.auditing import audit, drift
    from embedmig.commands.looking import HistoryEntry, Shown, check, current, heads, history, show
    from embedmig.commands.migrating import PlannedOperation, PlannedRevision, Ran, downgrade, dry_run, stamp, upgrade
    from embedmig.commands.operating import (
        Retired,
        alias_drop,
        alias_rebuild,
        backfill,
        follow,
        pause,
        resume,
        retire,
        sync,
        throttle,
    )
    from embedmig.commands.planning import Duration, Forecast, Plan, Sizes, plan
    from embedmig.commands.project import Project, open_project
    from embedmig.commands.proving import Compared, Evaluated, Made, compare, evaluate, make_golden
    from embedmig.commands.reporting import report
    from embedmig.commands.standing import CollectionStatus, Rollback, SpaceStatus, Status, status
    from embedmig.commands.writing import Wanted, init, merge, rebase, revision
    from embedmig.lint import Finding

__all__ = [
    "CollectionStatus", "Compared", "Duration", "Evaluated", "Finding", "Forecast", "Found", "HistoryEntry", "Made", "Plan", "PlannedOperation", "PlannedRevision", "Project", "Ran", "Retired", "Rollback",
    "Shown", "Sizes", "SpaceStatus", "Status", "Wanted", "alias_drop", "alias_rebuild", "audit", "backfill", "check", "compare", "current", "downgrade", "drift", "dry_run", "evaluate", "follow", "gate", "heads", "history",
    "init", "make_golden", "merge", "open_project", "pause", "plan", "rebase", "report", "resume", "retire", "revision", "search", "show", "stamp", "status", "sync", "throttle", "upgrade",
]  # fmt: skip

_ROOMS = {
    "embedmig.commands.asking": "Found gate search",
    "embedmig.commands.auditing": "audit drift",
    "embedmig.commands.looking": "HistoryEntry Shown check current heads history show",
    "embedmig.commands.migrating": "PlannedOperation PlannedRevision Ran downgrade dry_run stamp upgrade",
    "embedmig.commands.operating": "Retired alias_drop alias_rebuild backfill follow pause resume retire sync throttle",
    "embedmig.commands.planning": "Duration Forecast Plan Sizes plan",
    "embedmig.commands.project": "Project open_project",
    "embedmig.commands.proving": "Compared Evaluated Made compare evaluate make_golden",
    "embedmig.commands.reporting": "report",
    "embedmig.commands.standing": "CollectionStatus Rollback SpaceStatus Status status",
    "embedmig.commands.writing": "Wanted init merge rebase revision",
    "embedmig.lint": "Finding",
}
_HOMES = {name: room for room, names in _ROOMS.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    """Loads a command with what it needs, and not what the others need."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""The command line without the terminal: one function a command, returning dataclasses.

Commands that only look open a read-only session and want SELECT alone.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from embedmig.commands.search import Found, gate, search
    from embedmig.commands.audit import audit, drift
    from embedmig.commands.history import HistoryEntry, Shown, check, current, heads, history, show
    from embedmig.commands.upgrade import PlannedOperation, PlannedRevision, Ran, downgrade, dry_run, stamp, upgrade
    from embedmig.commands.sync import (
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
    from embedmig.commands.plan import Duration, Forecast, Plan, Sizes, plan
    from embedmig.commands.project import Project, open_project
    from embedmig.commands.evaluate import Compared, Evaluated, Made, compare, evaluate, make_golden
    from embedmig.commands.report import report
    from embedmig.commands.status import CollectionStatus, Rollback, SpaceStatus, Status, status
    from embedmig.commands.revision import Wanted, init, merge, rebase, revision
    from embedmig.lint import Finding

__all__ = [
    "CollectionStatus", "Compared", "Duration", "Evaluated", "Finding", "Forecast", "Found", "HistoryEntry", "Made", "Plan", "PlannedOperation", "PlannedRevision", "Project", "Ran", "Retired", "Rollback",
    "Shown", "Sizes", "SpaceStatus", "Status", "Wanted", "alias_drop", "alias_rebuild", "audit", "backfill", "check", "compare", "current", "downgrade", "drift", "dry_run", "evaluate", "follow", "gate", "heads", "history",
    "init", "make_golden", "merge", "open_project", "pause", "plan", "rebase", "report", "resume", "retire", "revision", "search", "show", "stamp", "status", "sync", "throttle", "upgrade",
]  # fmt: skip

_ROOMS = {
    "embedmig.commands.search": "Found gate search",
    "embedmig.commands.audit": "audit drift",
    "embedmig.commands.history": "HistoryEntry Shown check current heads history show",
    "embedmig.commands.upgrade": "PlannedOperation PlannedRevision Ran downgrade dry_run stamp upgrade",
    "embedmig.commands.sync": "Retired alias_drop alias_rebuild backfill follow pause resume retire sync throttle",
    "embedmig.commands.plan": "Duration Forecast Plan Sizes plan",
    "embedmig.commands.project": "Project open_project",
    "embedmig.commands.evaluate": "Compared Evaluated Made compare evaluate make_golden",
    "embedmig.commands.report": "report",
    "embedmig.commands.status": "CollectionStatus Rollback SpaceStatus Status status",
    "embedmig.commands.revision": "Wanted init merge rebase revision",
    "embedmig.lint": "Finding",
}
_HOMES = {name: room for room, names in _ROOMS.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    """Loads a command with what it needs, and not what the others need."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

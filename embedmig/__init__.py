"""embedmig makes a change of embedding model an ordinary database migration.

Scripts import :class:`Space`, :class:`Chunk`, ``op`` and :func:`within`; applications import :class:`Reader` or
:class:`AsyncReader`; programs call the commands as functions. All that stands in ``__all__`` is the public API, which
docs/python.md describes. No public name is a submodule's: importing ``embedmig.report`` must not hide a function.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from embedmig.commands.alias import alias_differences as alias_differences
    from embedmig.commands.alias import alias_drop as alias_drop
    from embedmig.commands.alias import alias_rebuild as alias_rebuild
    from embedmig.commands.audit import audit as audit
    from embedmig.commands.backfill import backfill as backfill
    from embedmig.commands.bridge import BridgeResult as BridgeResult
    from embedmig.commands.bridge import bridge as bridge
    from embedmig.commands.check import check as check
    from embedmig.commands.compare import ComparisonResult as ComparisonResult
    from embedmig.commands.compare import compare as compare
    from embedmig.commands.current import current as current
    from embedmig.commands.cuts import CutsResult as CutsResult
    from embedmig.commands.cuts import cuts as cuts
    from embedmig.commands.downgrade import downgrade as downgrade
    from embedmig.commands.drift import drift as drift
    from embedmig.commands.dry_run import PlannedOperation as PlannedOperation
    from embedmig.commands.dry_run import PlannedRevision as PlannedRevision
    from embedmig.commands.dry_run import dry_run as dry_run
    from embedmig.commands.evaluate import DrawnGoldenSet as DrawnGoldenSet
    from embedmig.commands.evaluate import EvaluationResult as EvaluationResult
    from embedmig.commands.evaluate import evaluate as evaluate
    from embedmig.commands.evaluate import make_golden as make_golden
    from embedmig.commands.fleet import FleetResult as FleetResult
    from embedmig.commands.fleet import TenantOutcome as TenantOutcome
    from embedmig.commands.fleet import status_each as status_each
    from embedmig.commands.fleet import upgrade_each as upgrade_each
    from embedmig.commands.gate import gate as gate
    from embedmig.commands.heads import heads as heads
    from embedmig.commands.history import HistoryEntry as HistoryEntry
    from embedmig.commands.history import history as history
    from embedmig.commands.import_collection import Imported as Imported
    from embedmig.commands.import_collection import import_collection as import_collection
    from embedmig.commands.init import FoundVectors as FoundVectors
    from embedmig.commands.init import find_vectors as find_vectors
    from embedmig.commands.init import init as init
    from embedmig.commands.merge import merge as merge
    from embedmig.commands.plan import Forecast as Forecast
    from embedmig.commands.plan import Plan as Plan
    from embedmig.commands.plan import plan as plan
    from embedmig.commands.project import Project as Project
    from embedmig.commands.project import ProjectLike as ProjectLike
    from embedmig.commands.project import open_project as open_project
    from embedmig.commands.rebase import rebase as rebase
    from embedmig.commands.release import ReleasedSpace as ReleasedSpace
    from embedmig.commands.release import release as release
    from embedmig.commands.report import Report as Report
    from embedmig.commands.report import gather_report as gather_report
    from embedmig.commands.retire import RetiredSpace as RetiredSpace
    from embedmig.commands.retire import retire as retire
    from embedmig.commands.revision import revision as revision
    from embedmig.commands.running import RunResult as RunResult
    from embedmig.commands.search import SearchResult as SearchResult
    from embedmig.commands.search import search as search
    from embedmig.commands.server import server_url as server_url
    from embedmig.commands.server import stop_server as stop_server
    from embedmig.commands.show import RevisionDetails as RevisionDetails
    from embedmig.commands.show import show as show
    from embedmig.commands.squash import Squashed as Squashed
    from embedmig.commands.squash import squash as squash
    from embedmig.commands.stamp import stamp as stamp
    from embedmig.commands.status import CollectionStatus as CollectionStatus
    from embedmig.commands.status import Rollback as Rollback
    from embedmig.commands.status import SpaceStatus as SpaceStatus
    from embedmig.commands.status import Status as Status
    from embedmig.commands.status import status as status
    from embedmig.commands.sync import follow as follow
    from embedmig.commands.sync import sync as sync
    from embedmig.commands.throttle import pause as pause
    from embedmig.commands.throttle import resume as resume
    from embedmig.commands.throttle import throttle as throttle
    from embedmig.commands.try_models import TrialResult as TrialResult
    from embedmig.commands.try_models import try_models as try_models
    from embedmig.commands.uninstall import UninstallPlan as UninstallPlan
    from embedmig.commands.uninstall import uninstall as uninstall
    from embedmig.commands.upgrade import upgrade as upgrade
    from embedmig.config.settings import EmbedderSettings as EmbedderSettings
    from embedmig.config.settings import StoreSettings as StoreSettings
    from embedmig.engine.sync import Synced as Synced
    from embedmig.errors import AliasMoved as AliasMoved
    from embedmig.errors import AnswerIsNo as AnswerIsNo
    from embedmig.errors import BadAnswer as BadAnswer
    from embedmig.errors import ConfigError as ConfigError
    from embedmig.errors import ConnectionLost as ConnectionLost
    from embedmig.errors import CutoverBlocked as CutoverBlocked
    from embedmig.errors import CutUnknown as CutUnknown
    from embedmig.errors import DatabaseFailed as DatabaseFailed
    from embedmig.errors import DatabaseInterrupted as DatabaseInterrupted
    from embedmig.errors import DatabaseUnavailable as DatabaseUnavailable
    from embedmig.errors import DatabaseUnsuitable as DatabaseUnsuitable
    from embedmig.errors import Deadlocked as Deadlocked
    from embedmig.errors import EmbedderError as EmbedderError
    from embedmig.errors import EmbedderMisconfigured as EmbedderMisconfigured
    from embedmig.errors import EmbedderUnavailable as EmbedderUnavailable
    from embedmig.errors import EmbedmigError as EmbedmigError
    from embedmig.errors import GateClosed as GateClosed
    from embedmig.errors import GraphError as GraphError
    from embedmig.errors import IllegalTransition as IllegalTransition
    from embedmig.errors import InputRefused as InputRefused
    from embedmig.errors import Interrupted as Interrupted
    from embedmig.errors import LockedOut as LockedOut
    from embedmig.errors import LockHeld as LockHeld
    from embedmig.errors import MissingExtra as MissingExtra
    from embedmig.errors import ModelChanged as ModelChanged
    from embedmig.errors import OutcomeUnknown as OutcomeUnknown
    from embedmig.errors import PlaceMissing as PlaceMissing
    from embedmig.errors import PlanError as PlanError
    from embedmig.errors import RequestTooLarge as RequestTooLarge
    from embedmig.errors import RunSuperseded as RunSuperseded
    from embedmig.errors import ScriptError as ScriptError
    from embedmig.errors import SourceError as SourceError
    from embedmig.errors import StatementCancelled as StatementCancelled
    from embedmig.errors import StoreError as StoreError
    from embedmig.errors import StoreThrottled as StoreThrottled
    from embedmig.errors import StoreUnauthorized as StoreUnauthorized
    from embedmig.errors import StoreUnreachable as StoreUnreachable
    from embedmig.errors import StoreUnsuitable as StoreUnsuitable
    from embedmig.errors import TextTooLong as TextTooLong
    from embedmig.errors import UnknownTarget as UnknownTarget
    from embedmig.errors import UnpinnedModel as UnpinnedModel
    from embedmig.errors import UsageError as UsageError
    from embedmig.errors import VectorRefused as VectorRefused
    from embedmig.errors import WorkersLost as WorkersLost
    from embedmig.gates.quality_verdict import QualityVerdict as QualityVerdict
    from embedmig.gates.thresholds import within as within
    from embedmig.lint import Finding as Finding
    from embedmig.operations import op as op
    from embedmig.quality.audit import Audit as Audit
    from embedmig.quality.drift import Drift as Drift
    from embedmig.quality.trial import Trial as Trial
    from embedmig.reading.async_reader import AsyncReader as AsyncReader
    from embedmig.reading.reader import QueryVector as QueryVector
    from embedmig.reading.reader import Reader as Reader
    from embedmig.report.page import write_report as write_report
    from embedmig.report.trials_picture import write_trials as write_trials
    from embedmig.stores.differences import Difference as Difference
    from embedmig.types import Chunk as Chunk
    from embedmig.types import Hit as Hit
    from embedmig.types import Hits as Hits
    from embedmig.types import Space as Space
    from embedmig.types import Tally as Tally
    from embedmig.types import Verdict as Verdict

__version__ = "0.1.0"
__all__ = [
    "AliasMoved", "AnswerIsNo", "AsyncReader", "Audit", "BadAnswer", "BridgeResult", "Chunk", "CollectionStatus",
    "ComparisonResult", "ConfigError", "ConnectionLost", "CutUnknown", "CutoverBlocked", "CutsResult", "DatabaseFailed",
    "DatabaseInterrupted", "DatabaseUnavailable", "DatabaseUnsuitable", "Deadlocked", "Difference",
    "DrawnGoldenSet", "Drift", "EmbedderError", "EmbedderMisconfigured", "EmbedderSettings",
    "EmbedderUnavailable", "EmbedmigError", "EvaluationResult", "Finding", "FleetResult", "Forecast", "FoundVectors",
    "GateClosed", "GraphError", "HistoryEntry", "Hit", "Hits", "IllegalTransition", "Imported", "InputRefused",
    "Interrupted", "LockHeld",
    "LockedOut", "MissingExtra", "ModelChanged", "OutcomeUnknown", "PlaceMissing", "Plan", "PlanError",
    "PlannedOperation", "PlannedRevision", "Project", "ProjectLike", "QualityVerdict", "QueryVector", "Reader",
    "ReleasedSpace", "Report", "RequestTooLarge", "RetiredSpace", "RevisionDetails", "Rollback",
    "RunResult", "RunSuperseded", "ScriptError", "SearchResult", "SourceError", "Space", "SpaceStatus", "Squashed",
    "StatementCancelled", "Status", "StoreError", "StoreSettings", "StoreThrottled", "StoreUnauthorized",
    "StoreUnreachable", "StoreUnsuitable", "Synced", "Tally", "TenantOutcome", "TextTooLong", "Trial", "TrialResult", "UninstallPlan",
    "UnknownTarget", "UnpinnedModel", "UsageError", "VectorRefused", "Verdict", "WorkersLost",
    "__version__", "alias_differences", "alias_drop", "alias_rebuild", "audit", "backfill", "bridge", "check",
    "compare", "current", "cuts", "downgrade", "drift", "dry_run", "evaluate", "find_vectors", "follow", "gate",
    "gather_report", "heads", "history", "import_collection", "init", "make_golden", "merge", "op",
    "open_project", "pause", "plan", "rebase",
    "release", "resume", "retire", "revision", "search", "server_url", "show", "squash", "stamp", "status", "status_each",
    "stop_server", "sync", "throttle", "try_models", "uninstall", "upgrade", "upgrade_each", "within", "write_report",
    "write_trials",
]  # fmt: skip

_PUBLIC = {
    "embedmig.commands.alias": "alias_differences alias_drop alias_rebuild",
    "embedmig.commands.audit": "audit",
    "embedmig.commands.backfill": "backfill",
    "embedmig.commands.bridge": "BridgeResult bridge",
    "embedmig.commands.check": "check",
    "embedmig.commands.compare": "ComparisonResult compare",
    "embedmig.commands.current": "current",
    "embedmig.commands.cuts": "CutsResult cuts",
    "embedmig.commands.downgrade": "downgrade",
    "embedmig.commands.drift": "drift",
    "embedmig.commands.dry_run": "PlannedOperation PlannedRevision dry_run",
    "embedmig.commands.evaluate": "DrawnGoldenSet EvaluationResult evaluate make_golden",
    "embedmig.commands.fleet": "FleetResult TenantOutcome status_each upgrade_each",
    "embedmig.commands.gate": "gate",
    "embedmig.commands.heads": "heads",
    "embedmig.commands.history": "HistoryEntry history",
    "embedmig.commands.import_collection": "Imported import_collection",
    "embedmig.commands.init": "FoundVectors find_vectors init",
    "embedmig.commands.merge": "merge",
    "embedmig.commands.plan": "Forecast Plan plan",
    "embedmig.commands.project": "Project ProjectLike open_project",
    "embedmig.commands.rebase": "rebase",
    "embedmig.commands.release": "ReleasedSpace release",
    "embedmig.commands.report": "Report gather_report",
    "embedmig.commands.retire": "RetiredSpace retire",
    "embedmig.commands.revision": "revision",
    "embedmig.commands.running": "RunResult",
    "embedmig.commands.search": "SearchResult search",
    "embedmig.commands.server": "server_url stop_server",
    "embedmig.commands.show": "RevisionDetails show",
    "embedmig.commands.squash": "Squashed squash",
    "embedmig.commands.stamp": "stamp",
    "embedmig.commands.status": "CollectionStatus Rollback SpaceStatus Status status",
    "embedmig.commands.sync": "follow sync",
    "embedmig.commands.throttle": "pause resume throttle",
    "embedmig.commands.try_models": "TrialResult try_models",
    "embedmig.commands.uninstall": "UninstallPlan uninstall",
    "embedmig.commands.upgrade": "upgrade",
    "embedmig.config.settings": "EmbedderSettings StoreSettings",
    "embedmig.engine.sync": "Synced",
    "embedmig.errors": """
        EmbedmigError UsageError ConfigError ScriptError GraphError UnknownTarget MissingExtra PlanError
        UnpinnedModel SourceError DatabaseUnavailable DatabaseUnsuitable DatabaseFailed
        DatabaseInterrupted ConnectionLost StatementCancelled LockedOut Deadlocked StoreError
        PlaceMissing VectorRefused StoreUnreachable StoreUnauthorized StoreUnsuitable StoreThrottled
        OutcomeUnknown RunSuperseded IllegalTransition
        WorkersLost CutoverBlocked AliasMoved EmbedderError EmbedderMisconfigured EmbedderUnavailable
        InputRefused RequestTooLarge TextTooLong BadAnswer AnswerIsNo GateClosed CutUnknown ModelChanged LockHeld Interrupted
    """,
    "embedmig.gates.quality_verdict": "QualityVerdict",
    "embedmig.gates.thresholds": "within",
    "embedmig.lint": "Finding",
    "embedmig.operations": "op",
    "embedmig.quality.audit": "Audit",
    "embedmig.quality.drift": "Drift",
    "embedmig.quality.trial": "Trial",
    "embedmig.reading.async_reader": "AsyncReader",
    "embedmig.reading.reader": "QueryVector Reader",
    "embedmig.report.page": "write_report",
    "embedmig.report.trials_picture": "write_trials",
    "embedmig.stores.differences": "Difference",
    "embedmig.types": "Chunk Hit Hits Space Tally Verdict",
}
_HOMES = {name: module for module, names in _PUBLIC.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    """Loads a public name when it is asked for: ``embedmig --help`` must not wait for NumPy."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__

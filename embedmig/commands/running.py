"""What upgrade and downgrade share: which steps lie between two revisions, and running them."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from embedmig.commands.project import Project, applied_revisions, ignore, progress_of
from embedmig.commands.unmade import unmade
from embedmig.database import Connection, translated
from embedmig.database.ledger import ledger_exists
from embedmig.engine.backfill import NoWorkers, WorkerPool
from embedmig.errors import PlanError, SourceError, UnknownTarget
from embedmig.events import Event, Notice
from embedmig.gates.evidence_table import EvidenceTable
from embedmig.gates.quality_verdict import QualityVerdict
from embedmig.operations.adopt_collection import AdoptCollection
from embedmig.operations.adopt_space import AdoptSpace
from embedmig.operations.base import Context
from embedmig.operations.create_space import CreateSpace
from embedmig.operations.flip_aliases import flips_of
from embedmig.revisions.graph import Graph, in_short
from embedmig.revisions.progress import Progress
from embedmig.revisions.scripts import Script
from embedmig.runner import Runner, Step, next_step
from embedmig.stores.differences import Difference, unmet
from embedmig.stores.losses import Loss, losses

Direction = Literal["upgrade", "downgrade"]


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a run did: the revisions in order, the heads after it, and wall-clock seconds.

    ``quality`` says, of each collection whose alias it moved, how the version shown now compares with the one before;
    ``missing``, in words, what live versions need and somebody has dropped.
    """

    direction: str
    revisions: list[str]
    current: list[str]
    seconds: float
    quality: dict[str, QualityVerdict] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)


def run_to(
    project: Project,
    direction: Direction,
    target: str,
    report: Callable[[Event], None] | None,
    stop: threading.Event,
    *,
    no_wait: bool = False,
    workers: Callable[[], WorkerPool] = NoWorkers,
) -> RunResult:
    """Runs what lies between the applied heads and ``target``, under the run lock."""
    began, context = time.monotonic(), project.context(start=True)
    ran: list[str] = []
    applied: set[str] = set()  # when it has ended
    moved: set[str] = set()

    def steps(conn: Connection) -> list[Step]:
        found = steps_between(project, conn, context, direction, target)
        ran[:] = [step.script.revision for step in found]
        before = applied_revisions(project.graph, context, conn).keys()
        applied.update(before | set(ran) if direction == "upgrade" else before - set(ran))
        if direction == "upgrade":
            for said in refuse_unwritten(project, conn, context, found, applied):
                (report or ignore)(Notice(said))
        moved.update(flip.collection for step in found for one in step.operations for flip in flips_of(one))
        return found

    Runner(context, report or ignore, stop, no_wait, workers).run(steps)
    current = list(project.graph.applied_heads(applied))
    with translated("reading"), context.database.connect("read") as conn:
        quality = _qualities(context, conn, moved)
        missing = [one.in_words for one in found_losses(project, context, conn)]
    said = [*missing, LEFT_AT_BASE] if direction == "downgrade" and ran and not current else missing
    for line in said:
        (report or ignore)(Notice(line))
    return RunResult(direction, ran, current, time.monotonic() - began, quality, missing)


def _qualities(context: Context, conn: Connection, moved: Iterable[str]) -> dict[str, QualityVerdict]:
    """Of each collection whose alias shows something."""
    kept, needed = EvidenceTable(context.database.schema), context.config.gates.completeness
    found = {name: kept.quality(conn, context.registry.spaces(conn, name), needed) for name in sorted(moved)}
    return {name: quality for name, quality in found.items() if quality}


LEFT_AT_BASE = (
    "at base: no revision is applied. Vectors, triggers on the source and the ledger are still there; "
    "embedmig uninstall lists what there is and removes it"
)


def refuse_unwritten(
    project: Project, conn: Connection, context: Context, steps: list[Step], applied: set[str]
) -> list[str]:
    """Raises :class:`PlanError` where the configuration asks for what needs a revision that nobody wrote, and the steps are
    all there are. ``applied`` is what is applied when they have run. Returns which other differences they leave as they
    are, in words.
    """
    whole = applied >= set(project.graph.scripts)
    operations = [operation for step in steps for operation in step.operations]
    flipped = {flip.collection for operation in operations for flip in flips_of(operation)}
    left = [f"{one.collection}: {one.in_words}; {one.command}" for one in context.undeclared(conn)]
    for name, collection in project.config.collections.items():
        coming = [
            one.space
            for one in operations
            if isinstance(one, CreateSpace | AdoptSpace | AdoptCollection) and one.space.collection == name
        ]
        found = found_differences(context, conn, name)
        for one in unmet(found, collection, context.registry.spaces(conn, name), coming) if found and whole else []:
            raise PlanError(
                f"{name}: {one.in_words}, and no revision makes it; nothing was changed",
                hint=f"{one.command}; or restore {one.key} in [collections.{name}]",
            )
        left += [
            f"{name}: {one.in_words}; {one.command}"
            for one in found
            if one.way == "sync --repair" or (one.way == "alias rebuild" and name not in flipped)
        ]
    return left


def found_differences(context: Context, conn: Connection, name: str) -> list[Difference]:
    """As :meth:`Context.differences`, for a collection whose table may not be there: another one may be upgraded."""
    try:
        return context.differences(conn, name)
    except SourceError:
        return []


def found_losses(project: Project, context: Context, conn: Connection) -> list[Loss]:
    """What the live versions of all declared collections need and is not there; none where embedmig never ran."""
    if not ledger_exists(conn, context.database.schema):
        return []
    found = [one for each in context.config.collections.values() for one in losses(conn, context.registry, each)]
    return found + unmade(graph := project.readable_graph, context, conn, applied_revisions(graph, context, conn))


def steps_between(
    project: Project, conn: Connection, context: Context, direction: Direction, target: str
) -> list[Step]:
    """What a command to ``target`` would run, in order. Raises :class:`PlanError` where a script is not what was run."""
    known = progress_of(project.graph, context, conn)
    applied = {name: one.checksum for name, one in known.items() if one.state == "applied"}
    partly = {name for name, one in known.items() if one.partly}
    if direction == "upgrade":
        project.graph.refuse_missing(partly)
        scripts = project.graph.upgrade_plan(project.graph.applied_heads(applied), target)
        refuse_edited(project.graph, project.graph.walk(), applied)
    else:
        scripts = way_back(project.graph, applied.keys() | partly, partly, target)
        refuse_edited(project.graph, scripts, applied)
        refuse_squashed(scripts)
    return [
        next_step(context.ledger, conn, known.get(script.revision, Progress(script.revision)), script, direction)
        for script in scripts
    ]


def refuse_squashed(scripts: Iterable[Script]) -> None:
    """What stands for others leads a fresh database forward, and no database back. Raises :class:`PlanError`."""
    if found := next((script for script in scripts if script.replaces), None):
        raise PlanError(
            f"{found.path.name} stands for {in_short(found.replaces)}, and there is no way back across it",
            hint=f"embedmig downgrade {found.revision} is as far back as it goes; beyond it, with the scripts from before the squash",
        )


def way_back(graph: Graph, touched: set[str], partly: set[str], target: str) -> list[Script]:
    """What a downgrade takes back, in order: where several heads stand, those first that were only partly applied."""
    heads = graph.applied_heads(touched)
    if target in partly or (target in graph.scripts and graph.resolve(target).revision in partly):
        raise UnknownTarget(
            f"{target} is not applied as a whole, so there is no way back to it",
            hint=f"embedmig upgrade {target} finishes it; a downgrade to the revision before takes it back",
        )
    if len(heads) < 2 or not partly.intersection(heads) or not re.fullmatch(r"-\d+", target.strip()):
        return graph.downgrade_plan(heads, target)
    first = [script for script in graph.walk() if script.revision in partly.intersection(heads)][: -int(target)]
    left = -int(target) - len(first)
    rest = graph.applied_heads(touched - {script.revision for script in first})
    return first + (graph.downgrade_plan(rest, f"-{left}") if left else [])


def refuse_edited(graph: Graph, scripts: Iterable[Script], applied: Mapping[str, str]) -> None:
    """What is built upon or taken back must be what was applied. Raises :class:`PlanError`."""
    for script in scripts:
        if applied.get(script.revision) not in (None, script.checksum):
            above = [one for one in graph.applied_heads(applied) if graph.is_ancestor(script.revision, one)]
            raise PlanError(
                f"{script.path.name} was edited after it was applied, or is another script under the number {script.revision}",
                hint=f"restore the file as it was reviewed, or record the new one: embedmig stamp {(above or [script.revision])[0]}",
            )

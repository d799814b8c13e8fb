"""check: the rules, for CI."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from embedmig.commands.project import Project, ProjectLike, applied_revisions, opened, partly_done, progress_of
from embedmig.commands.running import found_differences, found_losses
from embedmig.database import Connection, check_suitable
from embedmig.embedders import create, providers
from embedmig.errors import EmbedmigError, GraphError, MissingExtra
from embedmig.lint import Finding, findings
from embedmig.lint.reading import Subject, read
from embedmig.operations.adopt_collection import AdoptCollection
from embedmig.operations.adopt_space import AdoptSpace
from embedmig.operations.base import Context
from embedmig.operations.create_space import CreateSpace
from embedmig.revisions.graph import Graph
from embedmig.revisions.progress import Progress
from embedmig.runner import next_step, plan_of, validate
from embedmig.stores.differences import Difference, unmet

Refused = tuple[Path, EmbedmigError]


def check(project: ProjectLike = None, *, offline: bool = False) -> list[Finding]:
    """For CI: every rule of :mod:`embedmig.lint` that the configuration selects; ``offline`` asks no database."""
    project = opened(project)
    if offline:
        subject = read(project.config, lambda: project.graph, None)
        return _findings(project, replace(subject, refused=unknown_models(subject)))
    with project.looking() as (context, conn):
        graph = _readable(project)
        applied = applied_revisions(graph, context, conn)
        partly = {one.revision: one.in_words for one in partly_done(graph, context, conn)}
        subject = read(project.config, lambda: project.graph, applied, partly)
        refused = () if subject.broken else refused_by_upgrade(project, context, conn)
        found = tuple(live_differences(subject, context, conn))
        lost = found_losses(project, context, conn)
    return _findings(project, replace(subject, refused=refused, differences=found, losses=lost))


def _readable(project: Project) -> Graph:
    """What can be read of the scripts; of those that don't fit together nothing, and a rule says why."""
    try:
        return project.readable_graph
    except GraphError:
        return Graph.of(project.config.migrations, ())


EXPLAINED = {"EM005", "EM006", "EM010", "EM013", "EM017", "EM018"}
"""Rules that name a line of what upgrade refuses: EM022 does not repeat them."""


def _findings(project: Project, subject: Subject) -> list[Finding]:
    found = findings(subject, project.config.check)
    explained = {one.where for one in found if one.code in EXPLAINED}
    return [one for one in found if one.code != "EM022" or one.where not in explained]


def refused_by_upgrade(project: Project, context: Context, conn: Connection) -> tuple[Refused, ...]:
    """The first pending script that ``upgrade heads`` would refuse, and why; calls no model. Scripts that can't be read,
    or were edited after they were applied, are the business of other rules.
    """
    known = progress_of(project.graph, context, conn)
    applied = {name: one.checksum for name, one in known.items() if one.state == "applied"}
    try:
        check_suitable(conn)
        scripts = project.graph.upgrade_plan(project.graph.applied_heads(applied), "heads")
        plan = plan_of(context, conn, offline=True)
    except GraphError:
        return ()
    except EmbedmigError as error:
        return ((project.config.path, error),)
    for script in scripts:
        try:
            progress = known.get(script.revision, Progress(script.revision))
            validate(plan, [next_step(context.ledger, conn, progress, script, "upgrade")])
        except EmbedmigError as error:
            return ((script.path, error),)
    return ()


def unknown_models(subject: Subject) -> tuple[Refused, ...]:
    """Models that there can't be, as far as files tell: of an unknown provider, or not in a package that is installed."""
    found = []
    for reading in subject.readings:
        for call in reading.upgrade:
            if isinstance(call.operation, CreateSpace):
                space = call.operation.space
                settings = subject.config.settings(space.provider)
                kind = settings.kind or space.provider
                try:
                    if kind in ("wordllama", *({kind} - set(providers()))):
                        create(space, settings)
                except MissingExtra:
                    continue  # this machine need not be the one that upgrades
                except EmbedmigError as error:
                    found.append((reading.script.path, error))
    return tuple(found)


def live_differences(subject: Subject, context: Context, conn: Connection) -> Iterator[Difference]:
    """Where the configuration is not what is live; what a script that is not applied makes is that rule's business."""
    applied = subject.applied or {}
    yield from context.undeclared(conn)
    for name, collection in subject.config.collections.items():
        found = found_differences(context, conn, name)
        if not found:
            continue
        coming = [
            call.operation.space
            for reading in subject.readings if reading.script.revision not in applied
            for call in reading.upgrade
            if isinstance(call.operation, CreateSpace | AdoptSpace | AdoptCollection) and call.operation.space.collection == name
        ]  # fmt: skip
        yield from (one for one in found if one.way != "revision")
        yield from unmet(found, collection, context.registry.spaces(conn, name), coming)

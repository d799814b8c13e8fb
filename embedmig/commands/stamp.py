"""stamp: records revisions as applied without running them."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping

from embedmig.commands.project import ProjectLike, applied_heads, ignore, opened
from embedmig.commands.running import RunResult
from embedmig.database import Connection
from embedmig.revisions.graph import Graph
from embedmig.revisions.progress import Progress
from embedmig.revisions.replaced import understood
from embedmig.revisions.scripts import Script
from embedmig.runner import Runner


def stamp(project: ProjectLike, target: str, *, purge: bool = False) -> RunResult:
    """Records the revisions up to ``target`` as applied without running them, and as not applied those that build on it
    and those that have no script; with ``purge``, all others.
    """
    project = opened(project)
    began, context = time.monotonic(), project.context(start=True)
    graph = project.graph
    wanted = {} if target == "base" else {script.revision: script.checksum for script in _lineage(graph, target)}

    def write(conn: Connection) -> None:
        known = understood(graph, context.ledger.progress(conn))
        with conn.transaction():
            for name, one in known.items():
                after = purge or not wanted or name not in graph.scripts or _builds_on(graph, name, wanted)
                if one.state != "pending" and name not in wanted and after:
                    context.ledger.stamp(conn, name, "unstamp", one.checksum)
            for name, checksum in wanted.items():
                found = known.get(name, Progress(name))
                if (found.state, found.checksum) != ("applied", checksum):
                    context.ledger.stamp(conn, name, "stamp", checksum)

    Runner(context, ignore, threading.Event()).run(lambda _: [], prepare=write)
    with context.database.connect("read") as conn:
        return RunResult("stamp", sorted(wanted), list(applied_heads(project, context, conn)), time.monotonic() - began)


def _builds_on(graph: Graph, revision: str, wanted: Mapping[str, str]) -> bool:
    """Whether a revision comes after the newest of ``wanted``."""
    return any(graph.is_ancestor(head, revision) for head in graph.applied_heads(wanted))


def _lineage(graph: Graph, target: str) -> list[Script]:
    targets = graph.heads() if target == "heads" else (graph.resolve(target).revision,)
    return [script for name in targets for script in (*graph.ancestors(name), graph.get(name))]

"""stamp: records revisions as applied without running them."""

from __future__ import annotations

import threading
import time

from embedmig.commands.project import ProjectLike, applied_heads, ignore, opened
from embedmig.commands.running import RunResult
from embedmig.database import Connection
from embedmig.revisions.graph import Graph
from embedmig.revisions.scripts import Script
from embedmig.runner import Runner


def stamp(project: ProjectLike, target: str) -> RunResult:
    """Records the revisions up to ``target`` as applied, and those after it as not, without running them."""
    project = opened(project)
    began, context = time.monotonic(), project.context(start=True)
    graph = project.graph
    wanted = set() if target == "base" else {script.revision for script in _lineage(graph, target)}

    def write(conn: Connection) -> None:
        applied = context.ledger.applied(conn)
        with conn.transaction():
            for script in reversed(graph.walk()):
                before, now = script.revision in applied, script.revision in wanted
                if now and applied.get(script.revision) != script.checksum:
                    context.ledger.stamp(conn, script.revision, "stamp", script.checksum)
                elif before and not now:
                    context.ledger.stamp(conn, script.revision, "unstamp", script.checksum)

    Runner(context, ignore, threading.Event()).run(lambda _: [], prepare=write)
    with context.database.connect("read") as conn:
        return RunResult("stamp", sorted(wanted), list(applied_heads(project, context, conn)), time.monotonic() - began)


def _lineage(graph: Graph, target: str) -> list[Script]:
    targets = graph.heads() if target == "heads" else (graph.resolve(target).revision,)
    return [script for name in targets for script in (*graph.ancestors(name), graph.get(name))]

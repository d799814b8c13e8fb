"""Versions of applied revisions that this database never had: somebody recorded the revisions without running them."""

from __future__ import annotations

from collections.abc import Mapping

from embedmig.database import Connection
from embedmig.database.ledger import ledger_exists
from embedmig.lint.reading import State, read_script
from embedmig.operations.base import Context
from embedmig.revisions.graph import Graph
from embedmig.stores.losses import Loss


def unmade(graph: Graph, context: Context, conn: Connection, applied: Mapping[str, str]) -> list[Loss]:
    """Looked for where a declared collection has no version at all: reading scripts takes time."""
    if not applied or not ledger_exists(conn, context.database.schema):
        return []
    empty = [name for name in context.config.collections if not context.registry.spaces(conn, name)]
    state, makers = State(), dict[tuple[str, str], str]()
    for script in reversed(graph.walk()) if empty else ():
        if script.revision in applied:
            before, state = state, read_script(script, state).after
            makers |= dict.fromkeys(state.spaces.keys() - before.spaces.keys(), script.revision)
    return [
        Loss(
            name,
            f"{tag} is not there, and never was, although {makers[name, tag]}, which makes it, is recorded as applied",
            f"embedmig stamp {next(iter(graph.parents(makers[name, tag])), 'base')} records it as not applied; then embedmig upgrade head",
        )
        for name, tag in state.spaces if name in empty
    ]  # fmt: skip

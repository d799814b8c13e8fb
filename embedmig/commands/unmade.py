"""What applied revisions would have made, and this database never had: somebody recorded them without running them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from embedmig.database import Connection
from embedmig.database.ledger import ledger_exists
from embedmig.lint.reading import Reading, State, read_script
from embedmig.operations.base import Context
from embedmig.revisions.graph import Graph
from embedmig.stores.losses import Loss


def unmade(graph: Graph, context: Context, conn: Connection, applied: Mapping[str, str]) -> list[Loss]:
    """Looked for where the alias of a declared collection shows nothing, and no revision is on its way: reading scripts takes time."""
    if not applied or not ledger_exists(conn, context.database.schema):
        return []
    found = [context.registry.alias(conn, name) for name in context.config.collections]
    unshown = {
        name for name, alias in zip(context.config.collections, found, strict=True) if not (alias and alias.version)
    }
    if not unshown or any(one.state.startswith("partly") for one in context.ledger.progress(conn).values()):
        return []
    registered = {(record.collection, record.version) for record in context.registry.spaces(conn)}
    return list(_losses(graph, list(_readings(graph, applied)), unshown, registered))


def _readings(graph: Graph, applied: Mapping[str, str]) -> Iterator[Reading]:
    state = State()
    for script in reversed(graph.walk()):
        if script.revision in applied:
            reading = read_script(script, state)
            yield reading
            state = reading.after


def _losses(
    graph: Graph, readings: list[Reading], unshown: set[str], registered: set[tuple[str, str]]
) -> Iterator[Loss]:
    final = readings[-1].after if readings else State()
    for name in unshown:
        if final.aliases.get(name) and any(one == name for one, _ in registered):
            first = next(one.script.revision for one in readings if one.after.aliases.get(name))
            yield Loss(
                name,
                f"the alias shows nothing, although {first}, which has it show a version, is recorded as applied",
                _recorded_as_not_applied(graph, first),
            )
            continue
        for collection, tag in final.spaces:
            if collection == name and (collection, tag) not in registered:
                maker = next(one.script.revision for one in readings if (collection, tag) in one.after.spaces)
                yield Loss(
                    name,
                    f"{tag} is not there, and never was, although {maker}, which makes it, is recorded as applied",
                    _recorded_as_not_applied(graph, maker),
                )


def _recorded_as_not_applied(graph: Graph, revision: str) -> str:
    before = next(iter(graph.parents(revision)), "base")
    return f"embedmig stamp {before} records it as not applied; then embedmig upgrade head"

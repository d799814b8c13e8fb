"""squash: the applied revisions up to one become a single script for fresh databases."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

from embedmig.commands.project import ProjectLike, applied_revisions, opened
from embedmig.commands.running import refuse_edited
from embedmig.errors import PlanError, UsageError
from embedmig.gates.thresholds import NO_THRESHOLDS
from embedmig.operations.adopt_collection import AdoptCollection
from embedmig.operations.adopt_space import AdoptSpace
from embedmig.operations.backfill import BackfillSpace
from embedmig.operations.base import Operation
from embedmig.operations.compact_space import CompactSpace
from embedmig.operations.create_index import CreateIndex
from embedmig.operations.create_space import CreateSpace
from embedmig.operations.derive_space import DeriveSpace
from embedmig.operations.execute import Execute
from embedmig.operations.flip_alias import FlipAlias
from embedmig.operations.flip_aliases import flips_of
from embedmig.operations.gate import Gate
from embedmig.operations.release_space import ReleaseSpace
from embedmig.operations.retire_space import RetireSpace
from embedmig.revisions import authoring
from embedmig.revisions.authoring import literal
from embedmig.revisions.graph import Graph
from embedmig.revisions.scripts import Script, read_script
from embedmig.runner import step_of
from embedmig.types import GONE, Space

Named = tuple[str, str]
"""A collection and a version's tag."""


@dataclass(frozen=True, slots=True)
class Squashed:
    """The script that was written, the revisions that it stands for, and where their scripts are now. ``left_out`` are the versions
    that are gone by then, ``statements`` how many ``op.execute`` it has, which somebody has to read.
    """

    path: Path
    replaces: list[str]
    moved: list[Path]
    left_out: list[str]
    statements: int


def squash(project: ProjectLike, target: str) -> Squashed:
    """Writes one script in the place of all revisions up to ``target``, which this database has applied, and moves theirs into a
    folder beside it. Raises :class:`UsageError` where they are not applied as they stand, or where others build on the middle of them.
    """
    project = opened(project)
    graph = project.graph
    last = graph.resolve(target)
    scripts = [*graph.ancestors(last.revision), last]
    _refuse_entangled(graph, scripts, last)
    with project.looking() as (context, conn):
        applied = applied_revisions(graph, context, conn)
        gone = {(one.collection, one.version) for one in context.spaces(conn) if one.state in GONE}
    if last.revision not in applied:
        raise UsageError(
            f"{last.revision} is not applied here",
            hint=f"embedmig upgrade {last.revision}; a script that nobody ran is not squashed",
        )
    refuse_edited(graph, scripts, applied)
    operations = [one for script in scripts for one in step_of(script, "upgrade").operations]
    kept, left_out = what_stays(operations, gone)
    body = authoring.squash_body(_spaces(kept), [call_of(one, _names(kept)) for one in kept])
    made, moved = authoring.squash(graph, scripts, body, f"everything up to {last.revision}")
    _refuse_other(made, kept)
    statements = sum(isinstance(one, Execute) for one in kept)
    return Squashed(made, [script.revision for script in scripts], moved, [tag for _, tag in left_out], statements)


def _refuse_entangled(graph: Graph, scripts: Sequence[Script], last: Script) -> None:
    inner = {script.revision for script in scripts} - {last.revision}
    for script in graph.scripts.values():
        if script.revision not in inner | {last.revision} and (
            on := inner.intersection(graph.parents(script.revision))
        ):
            raise UsageError(
                f"{script.path.name} builds on {min(on)}, in the middle of what would be squashed",
                hint="squash up to a revision that all later ones build on, such as the merge of both branches",
            )
    if labelled := next((script for script in scripts if script.labels), None):
        raise UsageError(
            f"{labelled.path.name} has a branch label",
            hint="a labelled branch is not squashed: squash up to the revision before it",
        )
    if len(scripts) < 2:
        raise UsageError(f"{last.revision} is the first revision: there is nothing to squash")


def what_stays(operations: Iterable[Operation], gone: set[Named]) -> tuple[list[Operation], list[Named]]:
    """The operations that lead a fresh database to the same versions and aliases, and the versions that are gone by then: those that
    a script retires or releases, and those that this database has lost by hand. Quality that was measured once is not asked again.
    """
    found: list[Operation] = []
    left_out: dict[Named, None] = {}
    for operation in operations:
        if isinstance(operation, RetireSpace | ReleaseSpace):
            found, left_out = (
                _without(found, (operation.collection, operation.version)),
                left_out | {(operation.collection, operation.version): None},
            )
            continue
        if isinstance(operation, CreateSpace | AdoptSpace | AdoptCollection):
            left_out.pop((operation.space.collection, operation.space.tag), None)
        for one in flips_of(operation) or (operation,):
            found.append(replace(one, evidence=NO_THRESHOLDS) if isinstance(one, Gate) else one)
    for named in {_named(one): None for one in found if _named(one) in gone}:
        if named:
            found, left_out = _without(found, named), left_out | {named: None}
    return list(_sound(found)), list(left_out)


def _without(operations: list[Operation], named: Named) -> list[Operation]:
    return [one for one in operations if _named(one) != named]


def _named(operation: Operation) -> Named | None:
    """The version that an operation is about."""
    if isinstance(operation, Gate | FlipAlias | CompactSpace):
        return operation.collection, operation.version or ""
    space = getattr(operation, "space", None)
    return (space.collection, space.tag) if isinstance(space, Space) else None


def _sound(operations: Sequence[Operation]) -> Iterator[Operation]:
    """A version that was computed from one that is gone is embedded; an alias that shows nothing is not taken away; one that shows a
    version is not flipped to it again.
    """
    made: set[Named | None] = set()
    filled = {_named(one) for one in operations if isinstance(one, BackfillSpace)}
    shown: dict[str, str | None] = {}
    for one in operations:
        if isinstance(one, FlipAlias):
            if shown.get(one.collection) == one.version:
                continue
            shown[one.collection] = one.version
        if isinstance(one, DeriveSpace) and (one.space.collection, one.of) not in made:
            yield CreateSpace(one.space)
            if _named(one) not in filled:
                yield BackfillSpace(one.space)
        else:
            yield one
        made.add(_named(one))


def _spaces(operations: Iterable[Operation]) -> dict[str, Space]:
    """The spaces by the name that each has in the script: DOCS_1, DOCS_2."""
    found: dict[Named, Space] = {}
    for one in operations:
        space = getattr(one, "space", None)
        if isinstance(space, Space):
            found.setdefault((space.collection, space.tag), space)
    counts: dict[str, int] = {}
    named = {}
    for space in found.values():
        counts[space.collection] = counts.get(space.collection, 0) + 1
        stem = authoring.slug(space.collection).upper()
        named[f"{stem if not stem[0].isdigit() else f'SPACE_{stem}'}_{counts[space.collection]}"] = space
    return named


def _names(operations: Iterable[Operation]) -> dict[Named, str]:
    return {(space.collection, space.tag): name for name, space in _spaces(operations).items()}


def call_of(operation: Operation, names: Mapping[Named, str]) -> str:
    """``op.…(…)`` as a script has it."""
    match operation:
        case DeriveSpace(space, of, assume_current):
            given = {"of": names.get((space.collection, of)) or literal(of)} | (
                {"assume_current": "True"} if assume_current else {}
            )
        case Gate():
            values = {
                "completeness": operation.completeness,
                "freshness": operation.freshness,
                "sql": operation.condition,
            }
            given = {name: literal(value) for name, value in values.items() if value is not None}
        case CompactSpace():
            given = {} if operation.index == "keep" else {"index": literal(operation.index)}
        case FlipAlias(collection, version):
            to = "None" if version is None else names.get((collection, version)) or literal(version)
            return f"op.flip_alias({literal(collection)}, to={to})"
        case Execute(statement, in_transaction):
            return f"op.execute({literal(statement)}{'' if in_transaction else ', transactional=False'})"
        case CreateSpace() | AdoptSpace() | AdoptCollection() | BackfillSpace() | CreateIndex():
            given = {
                f.name: literal(getattr(operation, f.name))
                for f in fields(operation)
                if f.name != "space" and getattr(operation, f.name) != f.default
            }
        case _:
            raise PlanError(f"squash does not know op.{operation.kind}", hint="squash up to the revision before it")
    named = _named(operation)
    assert named is not None
    first = names.get(named) or f"{literal(named[1])}, collection={literal(named[0])}"
    return f"op.{operation.kind}({', '.join([first, *(f'{name}={value}' for name, value in given.items())])})"


def _refuse_other(path: Path, kept: Sequence[Operation]) -> None:
    """The script is read back: it must ask for what was meant."""
    if list(step_of(read_script(path), "upgrade").operations) != list(kept):
        raise PlanError(
            f"{path.name} does not say what the scripts say that it replaces; they are in the folder beside it"
        )

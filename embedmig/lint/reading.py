"""What the rules look at: every script with the operations it records, and the state that it starts from."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from embedmig.config import Config
from embedmig.errors import EmbedmigError, ScriptError
from embedmig.operations.adopt_collection import AdoptCollection
from embedmig.operations.adopt_space import AdoptSpace
from embedmig.operations.create_space import CreateSpace
from embedmig.operations.flip_alias import FlipAlias
from embedmig.operations.flip_aliases import flips_of
from embedmig.operations.recording import Call, calls_of
from embedmig.operations.release_space import ReleaseSpace
from embedmig.operations.retire_space import RetireSpace
from embedmig.revisions.graph import Graph
from embedmig.revisions.scripts import Script
from embedmig.stores.differences import Difference
from embedmig.stores.losses import Loss
from embedmig.types import Space

T = TypeVar("T")
Named = tuple[str, str]
"""A collection and a version's tag."""


@dataclass(frozen=True, slots=True)
class State:
    """What the scripts so far have made: spaces that are there, and what each alias shows.

    ``known`` is False where one of them could not be read, so that nothing can be said about what is missing.
    """

    spaces: Mapping[Named, Space] = field(default_factory=dict)
    aliases: Mapping[str, str | None] = field(default_factory=dict)
    known: bool = True

    def after(self, calls: Iterable[Call]) -> State:
        """The state when these operations are done."""
        spaces, aliases = dict(self.spaces), dict(self.aliases)
        for call in calls:
            match call.operation:
                case CreateSpace(space) | AdoptSpace(space) | AdoptCollection(space):
                    spaces.setdefault((space.collection, space.tag), space)
                case RetireSpace(collection, version) | ReleaseSpace(collection, version):
                    spaces.pop((collection, version), None)
                case FlipAlias(collection, version):
                    aliases[collection] = version
        return replace(self, spaces=spaces, aliases=aliases)


@dataclass(frozen=True, slots=True)
class Reading:
    """A script and what it records. ``downgrade`` is None where it has none; ``error`` says why it could not be read."""

    script: Script
    before: State
    upgrade: tuple[Call, ...] = ()
    downgrade: tuple[Call, ...] | None = None
    error: ScriptError | None = None
    cause: BaseException | None = None
    line: int | None = None

    @property
    def after(self) -> State:
        """What is there when the script has run."""
        return replace(self.before.after(self.upgrade), known=self.before.known and self.error is None)

    @property
    def calls(self) -> tuple[Call, ...]:
        return self.upgrade + (self.downgrade or ())


@dataclass(frozen=True)
class Subject:
    """Everything that a rule may look at. ``applied`` are checksums by revision; None: the database was not read.
    ``partly`` says of those that no run has ended how far they are; ``refused`` are what an upgrade would refuse.

    ``differences`` are where the configuration is not what is live, ``losses`` what was dropped behind embedmig's back.
    ``broken`` says why the scripts don't make a graph; then there are no readings.
    """

    config: Config
    readings: tuple[Reading, ...]
    heads: tuple[str, ...]
    applied: Mapping[str, str] | None = None
    broken: EmbedmigError | None = None
    partly: Mapping[str, str] = field(default_factory=dict)
    refused: Sequence[tuple[Path, EmbedmigError]] = ()
    differences: Sequence[Difference] = ()
    losses: Sequence[Loss] = ()

    def calls(self, kind: type[T]) -> Iterator[tuple[Reading, Call, T]]:
        """The calls of one kind, in both directions of every script, each with its operation."""
        for reading in self.readings:
            for call in reading.calls:
                if isinstance(call.operation, kind):
                    yield reading, call, call.operation

    def name_of(self, path: Path | None) -> str:
        """A file as findings name it: relative to the configuration's folder."""
        if path is None:
            path = self.config.migrations
        return Path(os.path.relpath(path, self.config.path.parent)).as_posix()


def read(
    config: Config,
    graph: Callable[[], Graph],
    applied: Mapping[str, str] | None,
    partly: Mapping[str, str] | None = None,
) -> Subject:
    """Runs every script's ``upgrade`` and ``downgrade``, which only record; oldest first."""
    try:
        found = graph()
    except EmbedmigError as error:
        return Subject(config, (), (), applied, error)
    return Subject(config, tuple(read_all(found)), found.heads(), applied, partly=partly or {})


def read_all(graph: Graph) -> Iterator[Reading]:
    """The scripts in an order in which they could run, each with the state that its parents leave."""
    states: dict[str, State] = {}
    for script in reversed(graph.walk()):
        reading = read_script(script, joined(states[parent] for parent in graph.parents(script.revision)))
        states[script.revision] = reading.after
        yield reading


def joined(states: Iterable[State]) -> State:
    """What several branches have made together; where they disagree, the last named counts."""
    whole = State()
    for state in states:
        whole = State({**whole.spaces, **state.spaces}, {**whole.aliases, **state.aliases}, whole.known and state.known)
    return whole


def read_script(script: Script, before: State) -> Reading:
    """Loads a script and records both directions; what goes wrong is part of the reading."""
    try:
        module = script.load()
        upgrade = _read(module.upgrade)
        down = getattr(module, "downgrade", None)
        return Reading(script, before, upgrade, None if down is None else _read(down))
    except Exception as error:  # noqa: BLE001  a script is anyone's code; what it raises is a finding
        blamed = error if isinstance(error, ScriptError) else script.blame(error)
        cause = error.__cause__ or error
        return Reading(script, before, error=blamed, cause=cause, line=script.line_of(cause))


def _read(function: Callable[[], object]) -> tuple[Call, ...]:
    """What it records; a flip of several aliases as one of each, which is how the rules look at it."""
    return tuple(
        Call(operation, call.line)
        for call in calls_of(function)
        for operation in flips_of(call.operation) or (call.operation,)
    )

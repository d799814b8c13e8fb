"""Which operations of a script are done, which were taken back, and which never happened: what a run passes over.

A run may end anywhere, in either direction, and be followed by one in the other. Nothing that happened is lost sight
of, and what never happened is not undone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

from embedmig.database.ledger import Journaled
from embedmig.errors import PlanError
from embedmig.operations.base import Operation
from embedmig.operations.create_space import CreateSpace
from embedmig.operations.execute import Execute
from embedmig.operations.flip_alias import FlipAlias
from embedmig.operations.flip_aliases import FlipAliases, flips_of
from embedmig.operations.gate import Gate
from embedmig.operations.retire_space import RetireSpace
from embedmig.revisions.progress import Progress, Way

Operations = Sequence[Operation]
Positions = frozenset[int]
Journal = Mapping[int, Journaled]


@dataclass(frozen=True, slots=True)
class PassedOver:
    """Positions of a direction: ``done`` and not to be done again, ``never`` because there is nothing to take back."""

    done: frozenset[int] = frozenset()
    never: frozenset[int] = frozenset()


NOTHING = PassedOver()


def passed_over(progress: Progress, way: Way, up: Operations, down: Operations) -> PassedOver:
    """What a run in one direction leaves out. Raises :class:`PlanError` where that can't be told."""
    if not progress.partly:
        return NOTHING
    there, back = _standing(progress, up, down)
    if way == "upgrade":
        return PassedOver(done=_without(there, back, up, down))
    never = {position for position in range(len(down)) if position not in back and _never(position, down, up, there)}
    return PassedOver(done=back, never=frozenset(never))


def _standing(progress: Progress, up: Operations, down: Operations) -> tuple[Positions, Positions]:
    """Positions of ``up`` whose effect stood when it was last left, and those of ``down`` finished since then."""
    there = frozenset(range(len(up))) if progress.whole else frozenset[int]()
    back = frozenset[int]()
    for way, finished in progress.segments:
        if way == "downgrade":
            back = finished
        else:
            there, back = _without(there, back, up, down) | finished, frozenset()
    return there, back


def _without(there: Positions, back: Positions, up: Operations, down: Operations) -> Positions:
    """What stands of ``up`` when ``back`` of ``down`` has been done."""
    for position in back:
        if isinstance(down[position], Execute) and not _pair_up(up, down) and not _statements(down) <= back:
            raise _unclear(up, down)
        there -= taken_back(position, down, up)
    return there


def _never(position: int, down: Operations, up: Operations, there: Positions) -> bool:
    """Whether there is nothing for an operation of ``down`` to take back."""
    undone = taken_back(position, down, up)
    if isinstance(down[position], Execute) and not _pair_up(up, down) and undone & there and not undone <= there:
        raise _unclear(up, down)
    return bool(undone) and not undone & there


def taken_back(position: int, down: Operations, up: Operations) -> Positions:
    """The positions of ``up`` that an operation of ``down`` takes back; none where it stands for itself.

    Statements of ``op.execute`` are paired from the two ends, where there are as many on both sides. A gate belongs to
    the flip that it guards.
    """
    match down[position]:
        case FlipAlias() | FlipAliases() as moved:
            return _flips(up, *(flip.collection for flip in flips_of(moved)))
        case Gate(collection, _):
            later = _flips(down, collection)
            guarded = min((one for one in later if one > position), default=None)
            return frozenset() if guarded is None else taken_back(guarded, down, up)
        case RetireSpace(collection, version):
            made = (collection, version)
            return _where(
                up, lambda one: isinstance(one, CreateSpace) and (one.space.collection, one.space.tag) == made
            )
        case Execute():
            mine, theirs = sorted(_statements(down)), sorted(_statements(up))
            return frozenset({theirs[-1 - mine.index(position)]} if _pair_up(up, down) else theirs)
    return frozenset()


def _where(operations: Operations, wanted: Callable[[Operation], bool]) -> Positions:
    return frozenset(position for position, one in enumerate(operations) if wanted(one))


def _flips(operations: Operations, *collections: str) -> Positions:
    """Those that move the alias of one of these collections."""
    return _where(operations, lambda one: any(flip.collection in collections for flip in flips_of(one)))


def _statements(operations: Operations) -> Positions:
    return _where(operations, lambda one: isinstance(one, Execute))


def _pair_up(up: Operations, down: Operations) -> bool:
    return len(_statements(up)) == len(_statements(down))


def _unclear(up: Operations, down: Operations) -> PlanError:
    counts = f"upgrade() has {len(_statements(up))} op.execute, downgrade() has {len(_statements(down))}"
    return PlanError(
        f"some of the script's own SQL was run and some was not, and {counts}: which takes back which can't be told",
        hint="write one in downgrade() for each in upgrade(), in reverse order; or put it right by hand, then embedmig stamp REVISION",
    )


def refuse_changed(script: str, way: Way, progress: Progress, journal: Journal, operations: Operations) -> None:
    """What a script asks for must begin with what was done of it; all of it, where it was applied as a whole.

    Raises :class:`PlanError`.
    """
    finished = frozenset[int]().union(*(positions for taken, positions in progress.segments if taken == way))
    if progress.whole and way == "upgrade" and journal:  # one that was stamped has none
        finished = frozenset(range(max(len(operations), max(journal) + 1)))
    for position in sorted(finished):
        was = journal.get(position)
        now = journaled(operations[position]) if position < len(operations) else None
        if was and now and (was.is_same(now) or was.kind == now.kind == Gate.kind):
            continue
        what = f"was {was.description!r}" if was else f"is new: {now.description!r}" if now else "is gone"
        raise PlanError(
            f"{script} was edited, and what was done of it can't be found in it: {way}(), operation {position + 1} {what}",
            hint="restore the file as it was run; only what comes after the finished operations may be edited",
        )


def journaled(operation: Operation) -> Journaled:
    """An operation as the journal keeps it."""
    fields = json.loads(json.dumps(asdict(operation), default=str))
    return Journaled(operation.kind, operation.describe(), fields)

"""The tables of states: nothing is a dead end, and what the ledger derives moves by no other way than theirs."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from typing import get_args

import pytest

from embedmig.errors import IllegalTransition
from embedmig.revisions import states
from embedmig.revisions.progress import ENDS, FlipHistory, Progress, Tried, progress_of
from embedmig.types import SpaceState
from tests.lifecycle import PICTURE, drawn, tables

WAYS = ("upgrade", "downgrade", "stamp", "unstamp")


def reachable(start: object, moves: Iterable[tuple[object, object]]) -> set[object]:
    found = {start}
    while more := {after for before, after in moves if before in found} - found:
        found |= more
    return found


def test_from_every_state_of_a_revision_there_is_a_way_to_every_other() -> None:
    moves = [(before, after) for (before, _), after in states.REVISIONS.items()]
    for state in get_args(states.RevisionState):
        assert reachable(state, moves) == set(get_args(states.RevisionState))


def test_every_state_of_a_space_can_be_reached_and_left() -> None:
    assert reachable(None, states.SPACES) | reachable(None, states.ADOPTED) == {None, *get_args(SpaceState)}
    for table in (states.SPACES, states.ADOPTED):
        assert {before for before, _ in table} - {None} == {after for _, after in table}


def test_the_picture_shows_the_tables_of_today() -> None:
    assert PICTURE.read_text() == drawn(tables()), "make docs-picture draws it again"


def test_the_picture_has_an_arc_for_each_move() -> None:
    for title, moves in tables().items():
        changing = [labels for (before, after), labels in moves.items() if before != after]
        assert drawn({title: moves}).count('class="head"') == len(changing)
        for move in moves:
            if move[0] != move[1]:
                assert drawn({title: {other: moves[other] for other in moves if other != move}}) != drawn(
                    {title: moves}
                )


def test_the_ledger_derives_no_move_that_is_not_in_the_table() -> None:
    """All orders of five attempts, each of which finishes an operation, or none, or comes to its end."""
    kinds = [(way, done) for way in WAYS for done in (True, False) if done or way in ("upgrade", "downgrade")]
    for order in product(kinds, repeat=5):
        state: states.RevisionState = "pending"
        tried: list[Tried] = []
        for way, done in order:
            event = ENDS[way] if done else f"{way}_step"
            if (state, event) not in states.REVISIONS:
                break  # the ledger does not let it begin
            tried.append(Tried("0001", way, done, "", frozenset({len(tried)})))
            state = states.REVISIONS[state, event]  # type: ignore[index]
            assert progress_of(tried)["0001"].state == state


def test_an_attempt_that_finished_nothing_changes_nothing() -> None:
    begun = Progress("0001").after(Tried("0001", "upgrade", False, "", frozenset()))
    assert begun == Progress("0001")
    with pytest.raises(IllegalTransition, match="0001 is pending"):
        states.after("0001", begun.state, "downgrade_end")


def test_what_an_alias_shows_is_what_the_revisions_that_stand_left() -> None:
    history = FlipHistory()
    for revision, version in (("0001", "a"), ("0002", "b"), ("0003", "c")):
        history.flipped(revision, "upgrade", version)
    history.flipped("0003", "downgrade", "b")
    assert (history.shown.version, history.shown.revision) == ("b", "0002")
    history.stamped("0002", "unstamp")
    assert (history.shown.version, history.shown.revision) == ("a", "0001")
    history.stamped("0002", "stamp")
    assert (history.shown.version, history.shown.revision) == ("b", "0002")
    history.stamped("0002", "stamp")
    assert len(history.flips) == 2
    history.flipped("0002", "downgrade", "a")
    history.stamped("0002", "unstamp")
    history.stamped("0002", "stamp")
    assert history.shown.version == "a"  # what was taken back does not come back by a stamp
    history.flipped("0001", "downgrade", None)
    assert history.shown.version is None

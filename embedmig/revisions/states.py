"""What a revision and a space can be, and what moves them from one state to the next. Nothing else does: the ledger
and the registry refuse every move that is not in these tables, and the picture in the documentation is drawn from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from embedmig.errors import IllegalTransition
from embedmig.types import SpaceState

RevisionState = Literal["pending", "partly_applied", "applied", "partly_taken_back"]
RevisionEvent = Literal["upgrade_step", "upgrade_end", "downgrade_step", "downgrade_end", "stamp", "unstamp"]

EVENTS: Mapping[RevisionEvent, str] = {
    "upgrade_step": "an operation of upgrade() is finished",
    "upgrade_end": "upgrade() is finished",
    "downgrade_step": "an operation of downgrade() is finished",
    "downgrade_end": "downgrade() is finished",
    "stamp": "embedmig stamp records it as applied",
    "unstamp": "embedmig stamp records it as not applied",
}

REVISIONS: Mapping[tuple[RevisionState, RevisionEvent], RevisionState] = {
    ("pending", "upgrade_step"): "partly_applied",
    ("pending", "upgrade_end"): "applied",
    ("pending", "stamp"): "applied",
    ("partly_applied", "upgrade_step"): "partly_applied",
    ("partly_applied", "upgrade_end"): "applied",
    ("partly_applied", "downgrade_step"): "partly_taken_back",
    ("partly_applied", "downgrade_end"): "pending",
    ("partly_applied", "stamp"): "applied",
    ("partly_applied", "unstamp"): "pending",
    ("applied", "downgrade_step"): "partly_taken_back",
    ("applied", "downgrade_end"): "pending",
    ("applied", "stamp"): "applied",
    ("applied", "unstamp"): "pending",
    ("partly_taken_back", "downgrade_step"): "partly_taken_back",
    ("partly_taken_back", "downgrade_end"): "pending",
    ("partly_taken_back", "upgrade_step"): "partly_applied",
    ("partly_taken_back", "upgrade_end"): "applied",
    ("partly_taken_back", "stamp"): "applied",
    ("partly_taken_back", "unstamp"): "pending",
}

SpaceMoves = Mapping[tuple[SpaceState | None, SpaceState], str]

SPACES: SpaceMoves = {
    (None, "building"): "create_space",
    ("building", "ready"): "backfill",
    ("ready", "active"): "flip_alias",
    ("active", "retained"): "flip_alias to another version, or to none",
    ("retained", "active"): "flip_alias",
    ("retained", "retired"): "retire_space",
    ("building", "retired"): "embedmig retire, of a version that is given up",
    ("ready", "retired"): "embedmig retire, of a version that is given up",
    ("retired", "building"): "create_space",
}
"""Spaces that embedmig made. None: not there."""

ADOPTED: SpaceMoves = {
    (None, "ready"): "adopt_space",
    ("ready", "active"): "flip_alias",
    ("active", "retained"): "flip_alias to another version, or to none",
    ("retained", "active"): "flip_alias",
    ("ready", "released"): "release_space",
    ("retained", "released"): "release_space",
    ("released", "ready"): "adopt_space",
}
"""Spaces whose vectors the application had already."""


def after(revision: str, state: RevisionState, event: RevisionEvent) -> RevisionState:
    """The state that a revision is in when ``event`` has happened. Raises :class:`IllegalTransition`."""
    following = REVISIONS.get((state, event))
    if following is None:
        raise IllegalTransition(f"revision {revision} is {in_words(state)}, so this can't be: {EVENTS[event]}")
    return following


def sources(state: SpaceState, *, adopted: bool) -> list[SpaceState]:
    """The states from which a space may come to ``state``."""
    moves = ADOPTED if adopted else SPACES
    return [before for before, following in moves if following == state and before is not None]


def in_words(state: str) -> str:
    """A state as people read it."""
    return state.replace("_", " ")

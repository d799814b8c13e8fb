"""How far each revision is, and what its flips left: both read off the attempts that the ledger has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from embedmig.revisions import states
from embedmig.revisions.states import RevisionEvent, RevisionState

Way = Literal["upgrade", "downgrade"]
ENDS: Mapping[str, RevisionEvent] = {
    "upgrade": "upgrade_end", "downgrade": "downgrade_end", "stamp": "stamp", "unstamp": "unstamp",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Tried:
    """An attempt: at which script, which way, whether it ended well, and which positions of it are finished."""

    revision: str
    way: str
    done: bool
    checksum: str
    finished: frozenset[int]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a revision is. ``checksum`` is that of the script last run or stamped. ``whole``: it was applied before
    the ``segments``, which are the finished positions since then, by turns of upgrade and downgrade.
    """

    revision: str
    state: RevisionState = "pending"
    checksum: str = ""
    whole: bool = False
    segments: tuple[tuple[Way, frozenset[int]], ...] = ()

    @property
    def partly(self) -> bool:
        """Begun in one direction and ended in none."""
        return self.state in ("partly_applied", "partly_taken_back")

    @property
    def finished(self) -> frozenset[int]:
        """Positions that the direction last taken has finished."""
        return self.segments[-1][1] if self.segments else frozenset()

    def after(self, tried: Tried) -> Progress:
        """With one more attempt. What an older embedmig let happen is taken as it came."""
        if tried.done:
            state: RevisionState = "applied" if tried.way in ("upgrade", "stamp") else "pending"
            return Progress(self.revision, state, tried.checksum, state == "applied")
        if not tried.finished:
            return self
        way: Way = "upgrade" if tried.way == "upgrade" else "downgrade"
        event: RevisionEvent = "upgrade_step" if way == "upgrade" else "downgrade_step"
        *before, (last, positions) = self.segments or ((way, frozenset[int]()),)
        segments = (
            (*before, (last, positions | tried.finished)) if last == way else (*self.segments, (way, tried.finished))
        )
        state = states.REVISIONS.get((self.state, event), self.state)
        return Progress(self.revision, state, tried.checksum, self.whole, tuple(segments))


def progress_of(attempts: Iterable[Tried]) -> dict[str, Progress]:
    """How far each revision is that was ever tried, from all attempts, oldest first."""
    found: dict[str, Progress] = {}
    for tried in attempts:
        found[tried.revision] = found.get(tried.revision, Progress(tried.revision)).after(tried)
    return found


@dataclass(frozen=True, slots=True)
class Shown:
    """What an alias shows by the ledger; ``revision`` is the one whose upgrade left it so, "" where none did."""

    version: str | None
    revision: str = ""


@dataclass
class FlipHistory:
    """The flips of one collection that were not taken back, the newest last; ``unstamped`` are those of revisions that
    were stamped as not applied.
    """

    flips: list[Shown] = field(default_factory=list)
    unstamped: dict[str, Shown] = field(default_factory=dict)

    def flipped(self, revision: str, way: str, version: str | None) -> None:
        """An upgrade lays its version on top; a downgrade takes the revision's own away, and says what is shown then."""
        self.forget(revision)
        self.unstamped.pop(revision, None)
        if way == "upgrade":
            self.flips.append(Shown(version, revision))
        elif not self.flips or self.flips[-1].version != version:
            self.flips.append(Shown(version))

    def stamped(self, revision: str, way: str) -> None:
        """Stamped as not applied, what it left is no longer expected; stamped as applied again, it is."""
        if way == "unstamp":
            self.unstamped |= {flip.revision: flip for flip in self.flips if flip.revision == revision}
            self.forget(revision)
        elif flip := self.unstamped.pop(revision, None):
            self.flips.append(flip)

    def forget(self, revision: str) -> None:
        """The revision is taken back."""
        self.flips = [flip for flip in self.flips if flip.revision != revision or not revision]

    @property
    def shown(self) -> Shown:
        """What the alias shows if nothing but revisions moved it."""
        return self.flips[-1] if self.flips else Shown(None)

"""What a run says while it goes on. Engines report; only the command line draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from embedmig.types import Progress, Verdict


@dataclass(frozen=True, slots=True)
class RevisionStarted:
    """A revision begins."""

    revision: str
    message: str
    direction: str
    operations: int


@dataclass(frozen=True, slots=True)
class OperationStarted:
    """An operation begins; ``position`` counts from 0."""

    position: int
    kind: str
    description: str


@dataclass(frozen=True, slots=True)
class OperationFinished:
    """An operation is done, or was done by an earlier attempt (``skipped``)."""

    position: int
    kind: str
    description: str
    outcome: str
    seconds: float
    skipped: bool = False


@dataclass(frozen=True, slots=True)
class GateEvaluated:
    """What a gate measured, whether it opened or not."""

    version: str
    verdicts: Sequence[Verdict]


@dataclass(frozen=True, slots=True)
class RevisionFinished:
    """A revision is done."""

    revision: str
    direction: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that a person should know and that is not an error."""

    text: str


Event = RevisionStarted | OperationStarted | OperationFinished | GateEvaluated | RevisionFinished | Notice | Progress

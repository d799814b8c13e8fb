"""The result types of an audit."""

from __future__ import annotations

from dataclasses import dataclass, field

KEYS_SHOWN = 10


@dataclass(frozen=True, slots=True)
class AuditFinding:
    """One kind of fault in one space (``version`` None: in the collection as a whole).

    ``count`` vectors or rows have it, ``share`` of those looked at; ``interval`` is the 95 % confidence interval of
    the share where only a sample was looked at. ``keys`` are some of them, at most ten.
    """

    code: str
    collection: str
    version: str | None
    count: int
    share: float | None
    message: str
    hint: str
    keys: list[str] = field(default_factory=list)
    interval: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Sampled:
    """A sample of stored vectors beside what the model makes of the same texts now.

    ``checked`` were compared, of ``drawn``: rows edited since, and texts that the model refuses, can't be. ``foreign``
    have a cosine below ``threshold``. ``median`` and ``lowest`` are cosines.
    """

    drawn: int
    checked: int
    foreign: int
    share: float
    interval: tuple[float, float]
    threshold: float
    median: float | None
    lowest: float | None

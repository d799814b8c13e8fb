"""What can be made to go wrong. Numbers after # are threads of ``qdrant/qdrant``."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Faults:
    """What goes wrong from now on. Numbers are how many requests it happens to."""

    grey: bool = False  # the optimizer waits for a change of the collection, as after a restart (#3962, #4940)
    red: str = ""  # what the optimizer says of its failure (#4072)
    unindexed: bool = False  # indexed_vectors_count is 0 whatever is indexed, and the status green (#7187)
    counts: float = 1.0  # counts that are not asked for as exact are so many times the true ones (#3844, #2775)
    wait_timeout: int = 0  # changes that answer `wait_timeout` and are applied with the next one (#8239, #8768)
    throttled: int = 0  # requests for points that answer 429 (#5582)
    retry_after: float | None = None  # in seconds, beside 429 (#5917)
    largest: int | None = (
        None  # bytes of a request; larger ones answer `too_large`, which is 400 from Qdrant itself (#2537)
    )
    too_large: int = 400  # 413 from a proxy
    severed: int = 0  # changes that are applied and not answered
    unavailable: int = 0  # requests that answer 503
    late: float = 0.0  # seconds before an answer
    version: str = "1.19.0"
    dies_after_actions: int | None = None  # of a list of alias actions, each saved by itself (until #10425)


class Refused(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, said: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(said)
        self.status, self.headers = status, headers or {}


class NotInTheDouble(Refused):
    """What Qdrant has and the double has not."""

    def __init__(self, what: str) -> None:
        super().__init__(501, f"not in the double: {what}")


class Severed(Exception):
    """The connection ends without an answer."""

"""What has been found out about a server: the options that it takes, how much at once, and how fast it is.

Kept for the life of the process, so that what one request was refused for no other request meets again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from embedmig.types import Limits

FIRST_TEXTS, FIRST_TOKENS = 64, 512
"""In the first request to a server whose speed is not known."""
EVIDENCE = 8
"""How many times as large a request may be as one whose answer tells its time."""
SHARE = 0.25
"""Of the time-out: what a request is expected to take at most."""
USUAL = 0.2
"""Of the difference to the usual length of texts, at each answer."""
SLOWER = 0.02
"""Of the difference to the best speed, at each answer: it may have been the server's luckiest moment, but answers also
wait for each other, which a smaller request would not change."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a server wants to be asked. ``key_header`` is empty for ``Authorization: Bearer``."""

    base64: bool = True
    dimensions: bool = False
    key_header: str = ""
    path: str = ""

    def differences(self, other: Dialect) -> Iterator[str]:
        """What this one does that the other does not, in words."""
        if self.base64 != other.base64:
            yield "it refuses encoding_format = base64, so it is asked for plain numbers"
        if self.dimensions != other.dimensions:
            yield (
                "dimensions is sent with each request"
                if self.dimensions
                else "it refuses dimensions, which are left out"
            )
        if self.key_header != other.key_header:
            yield f"it takes the key in the header {self.key_header}"
        if self.path != other.path:
            yield f"it answers below {self.path}, which is appended to base_url"


@dataclass
class ServerProfile:
    """One server and model. ``settled``: it has answered in this dialect. ``accepted`` and
    ``accepted_tokens`` are the most that it has answered at once; ``batch_size``, ``tokens_per_request`` and ``tokens_per_text`` are the limits that it has shown.
    ``at_once`` is how many of the largest requests are answered in a share of the time-out, even one after the other.
    ``known``: a larger request would not show its speed to be much better.
    """

    dialect: Dialect
    settled: bool = False
    tried: set[Dialect] = field(default_factory=set)
    accepted: int = 0
    accepted_tokens: int = 0
    batch_size: int | None = None
    tokens_per_request: int | None = None
    tokens_per_text: int | None = None
    seconds_per_token: float | None = None
    usual_tokens: float = 1.0
    at_once: int = 1
    known: bool = False
    answers: int = 0
    billed: bool = True
    _late: int = 0
    _notices: list[str] = field(default_factory=list)

    def limits(self, configured: Limits, timeout: float) -> Limits:
        """The configured limits, lowered to what the server takes, and to what it answers in a share of ``timeout``."""
        in_time = None if self.seconds_per_token is None else max(1, int(SHARE * timeout / self.seconds_per_token))
        return replace(
            configured,
            batch_size=min(filter(None, (configured.batch_size, self.batch_size, self._texts_in(in_time)))),
            tokens_per_request=least(configured.tokens_per_request, self.tokens_per_request, in_time),
            tokens_per_text=least(configured.tokens_per_text, self.tokens_per_text),
        )

    def first(self, configured: Limits, timeout: float) -> Limits | None:
        """What a request may hold while the server's speed is not known; None once it is."""
        limits = self.limits(configured, timeout)
        if self.seconds_per_token is None:
            tokens = least(FIRST_TOKENS, limits.tokens_per_request)
            return replace(limits, batch_size=min(FIRST_TEXTS, limits.batch_size), tokens_per_request=tokens)
        full = limits.batch_size == configured.batch_size <= EVIDENCE * self.accepted
        return None if self.known or full else limits

    def _texts_in(self, tokens: int | None) -> int | None:
        """How many texts of the usual length that is."""
        return None if tokens is None else max(1, int(tokens / self.usual_tokens))

    def answered(self, texts: int, tokens: int, seconds: float, dialect: Dialect) -> None:
        """A request was answered."""
        self.settled = self.settled or dialect == self.dialect
        self.accepted, self.accepted_tokens = max(self.accepted, texts), max(self.accepted_tokens, tokens)
        self.usual_tokens += (1.0 if not self.answers else USUAL) * (max(1, tokens) / texts - self.usual_tokens)
        self.answers += 1
        self._late = 0
        rate, best = seconds / max(1, tokens), self.seconds_per_token
        self.known = self.known or (best is not None and rate > best / 2)
        if best is None or rate < best:
            self.seconds_per_token = rate
        else:
            self.seconds_per_token = best + SLOWER * (rate - best)

    def timed_out(self, texts: int, tokens: int, timeout: float) -> bool:
        """A request was not answered in time. Whether it was too large to be: nothing of its size ever was answered, or
        nothing at all since the last one that was late.
        """
        self._late += 1
        known = texts <= self.accepted and tokens <= self.accepted_tokens and self._late == 1
        if known or texts == 1:
            return False
        self.seconds_per_token = max(self.seconds_per_token or 0.0, timeout / max(1, tokens))
        self.at_once = 1
        return True

    def bears(self, tokens: int, seconds: float, limits: Limits, timeout: float) -> int:
        """How many of the largest requests may be sent at once, after an answer to ``tokens`` in ``seconds``."""
        full = least(round(limits.batch_size * self.usual_tokens), limits.tokens_per_request) or tokens
        if EVIDENCE * tokens >= full:
            self.at_once = max(
                self.at_once, int(SHARE * timeout / (max(seconds, 1e-6) * max(1.0, full / max(1, tokens))))
            )
        return self.at_once

    def takes_at_most(self, texts: int, where: str) -> None:
        """It refused a request for the number of its texts."""
        if texts < (self.batch_size or texts + 1):
            self.batch_size = max(1, texts)
            self.say(f"{where} takes at most {self.batch_size:,} texts a request: requests keep to it")

    def adopt(self, dialect: Dialect, where: str) -> None:
        """It answers in this dialect, and not in the one that was tried first."""
        for words in dialect.differences(self.dialect):
            self.say(f"{where}: {words}")
        self.dialect, self.settled = dialect, True

    def unbilled(self, where: str) -> None:
        """It answered without saying how many tokens it bills."""
        if self.billed:
            self.billed = False
            self.say(f"{where} does not say how many tokens it bills: where a price is known, they are estimated")

    def say(self, text: str) -> None:
        """To be told once to whoever runs this."""
        self._notices.append(text)

    def news(self) -> list[str]:
        """What was found out since this was asked last."""
        found, self._notices = self._notices, []
        return found


_profiles: dict[tuple[str, str, int], ServerProfile] = {}


def profile_of(url: str, model: str, dimensions: int, dialect: Dialect) -> ServerProfile:
    """What is known of a server and a model; for one that is new, ``dialect`` is tried first."""
    return _profiles.setdefault((url, model, dimensions), ServerProfile(dialect))


def forget(url: str) -> None:
    """For tests: another server may listen at an address where one was."""
    for key in [key for key in _profiles if key[0] == url]:
        del _profiles[key]


def least(*limits: int | None) -> int | None:
    """The lowest of those that there are."""
    return min((limit for limit in limits if limit is not None), default=None)

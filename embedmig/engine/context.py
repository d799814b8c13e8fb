"""What each part of a run is given: who hears of it, who may stop it, and what it may spend."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from embedmig.database import Connection
from embedmig.errors import AnswerIsNo
from embedmig.events import Event, Notice
from embedmig.types import Tally

Fence: TypeAlias = Callable[[Connection, Tally], None]
"""Called inside each writing transaction with what it adds; raises where it must not commit."""


@dataclass
class RunContext:
    """On whose behalf vectors are moved.

    ``report`` hears every event. ``stop`` ends the run after the requests in flight. ``guard`` raises where the run must
    not go on, the run lock being lost; ``fence`` does so inside the transaction that writes.
    """

    report: Callable[[Event], None] = lambda _event: None
    stop: threading.Event = field(default_factory=threading.Event)
    guard: Callable[[], None] = lambda: None
    fence: Fence = lambda _conn, _did: None

    def notice(self, text: str) -> None:
        """Reports a sentence."""
        self.report(Notice(text))


@dataclass(frozen=True, slots=True)
class SpendingLimit:
    """What a model costs, in USD per million tokens, and the most USD that one run may spend; None: unknown, no limit."""

    price: float | None = None
    maximum: float | None = None

    def cost(self, tokens: float) -> float | None:
        """USD for ``tokens``; None where the price is unknown."""
        return None if self.price is None else tokens * self.price / 1e6

    @property
    def applies(self) -> bool:
        """Without a price nothing can be held against the maximum."""
        return self.price is not None and self.maximum is not None

    def require(self, spent: float, ahead: float, hint: str) -> None:
        """Raises :class:`AnswerIsNo` where ``ahead`` USD more could pass the maximum."""
        if self.maximum is not None and spent + ahead > self.maximum:
            raise AnswerIsNo(
                f"what comes next could pass max_cost ({self.maximum:.2f} USD); spent so far: {spent:.4f} USD",
                hint=hint,
            )

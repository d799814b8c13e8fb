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
class Waits:
    """Seconds of a run in which it was paused or held back: they are not active time."""

    held: float = 0.0


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
    waits: Waits = field(default_factory=Waits)

    def notice(self, text: str) -> None:
        """Reports a sentence."""
        self.report(Notice(text))


@dataclass
class Spending:
    """USD of one run: what was billed or estimated to be, what may be billed for what is under way, and what other
    workers spent, by space. All pipelines and threads of the process share it.
    """

    spent: float = 0.0
    begun: float = 0.0
    elsewhere: dict[int, float] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)


@dataclass(frozen=True, slots=True)
class Spent:
    """Where a run stood when its workers were started, so that each of them counts from there: what was done of the
    space's ranges before, and the USD of the run so far.
    """

    before: Tally = field(default_factory=Tally)
    cost: float = 0.0


@dataclass(frozen=True, slots=True)
class SpendingLimit:
    """What a model costs, in USD per million tokens, and the most USD that one run may spend; None: unknown, no limit."""

    price: float | None = None
    maximum: float | None = None
    spending: Spending = field(default_factory=Spending)

    def cost(self, tokens: float) -> float | None:
        """USD for ``tokens``; None where the price is unknown."""
        return None if self.price is None else tokens * self.price / 1e6

    @property
    def spent(self) -> float:
        """USD so far, by this process and by others as far as is known."""
        return self.spending.spent + sum(self.spending.elsewhere.values())

    @property
    def applies(self) -> bool:
        """Without a price nothing can be held against the maximum."""
        return bool(self.price) and self.maximum is not None

    def begin(self, ahead: float, unseen: float = 0.0, *, hint: str) -> None:
        """Notes ``ahead`` USD as under way. Raises :class:`AnswerIsNo` where they could pass the maximum, together with
        what is spent, what is under way, and what others may spend that is not seen yet.
        """
        with self.spending.lock:
            spent = self.spent
            if self.maximum is not None and spent + self.spending.begun + ahead + unseen > self.maximum:
                raise AnswerIsNo(
                    f"what comes next could pass max_cost ({self.maximum:.2f} USD); spent so far: {spent:.4f} USD",
                    hint=hint,
                )
            self.spending.begun += ahead

    def settle(self, begun: float, cost: float) -> None:
        """What was under way has come back, and has cost so much."""
        with self.spending.lock:
            self.spending.begun -= begun
            self.spending.spent += cost

    def note_elsewhere(self, space: int, cost: float) -> None:
        """What other workers have spent on a space since this run began."""
        with self.spending.lock:
            self.spending.elsewhere[space] = cost

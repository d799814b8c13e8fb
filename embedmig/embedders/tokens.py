"""How many tokens a server will count: guessed from characters, and corrected by what it says as the run goes."""

from __future__ import annotations

import re
from math import ceil

from embedmig.embedders.prices import estimate

MARGIN = 1.05
ENOUGH = 1000
"""Estimated tokens that a request must have before it says something about other requests."""


class TokenEstimate:
    """Two guesses: what requests take on average, for the budget, and what they may take at worst, for packing.

    The worst goes up at once and comes down slowly.
    """

    def __init__(self) -> None:
        self._mean = 1.0
        self._worst = 1.0

    def most(self, text: str) -> int:
        """Tokens of one text, at worst."""
        return ceil(estimate(text) * self._worst)

    def expected(self, guessed: int) -> int:
        """Tokens of a request of ``guessed`` by characters, on average."""
        return max(1, round(guessed * self._mean))

    def learn(self, guessed: int, counted: int) -> None:
        """The server counted so many where ``guessed`` were expected by characters."""
        ratio = counted / guessed
        if guessed >= ENOUGH and ratio > 0:
            self._mean += 0.2 * (ratio - self._mean)
            self._worst = max(MARGIN * ratio, 0.98 * self._worst + 0.02 * MARGIN * ratio)

    def dispute(self, guessed: int, counted: int | None) -> None:
        """The server refused a request for its tokens; where it doesn't say how many it counted, twice as many."""
        self._worst = max(self._worst * 2 if counted is None else MARGIN * counted / guessed, self._worst)


def counted_and_allowed(said: str) -> tuple[int | None, int | None]:
    """The two numbers of ``Requested 346134 tokens, max 300000 tokens per request``, in whichever order they come."""
    numbers = sorted({int(digits) for digits in re.findall(r"\d+", said.replace(",", ""))})
    return (numbers[-1], numbers[-2]) if len(numbers) >= 2 and numbers[-2] > 0 else (None, None)

"""How many tokens a server will count: guessed from characters, and corrected by what it says as the run goes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from math import ceil

BYTES_PER_TOKEN = 3
"""Byte-pair tokenizers make about four letters of English a token. A character of another script takes one token or
more: its bytes after the first count double, which makes it 1 (é), 1.7 (語) or 2.3 (an emoji)."""
MARGIN = 1.05
FEWEST = 16
"""No model takes fewer tokens than that: a smaller number in what a server says is something else."""
ENOUGH = 1000
"""Estimated tokens that a request must have before it says something about other requests."""


def estimate_tokens(texts: Iterable[str]) -> int:
    """Tokens guessed from UTF-8 bytes, on the high side: for planning and packing, and for budgets where a server bills
    nothing.
    """
    return sum(estimate(text) for text in texts)


def estimate(text: str) -> int:
    """Tokens of one text, guessed as :func:`estimate_tokens` does; at least 1."""
    size = len(text) if text.isascii() else 2 * len(text.encode("utf-8", "surrogatepass")) - len(text)
    return size // BYTES_PER_TOKEN + 1


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
    """The two numbers of ``Requested 346134 tokens, max 300000 tokens per request``, in whichever order they come; a
    single number is what is allowed. To be asked only of what speaks of tokens.
    """
    found = map(int, re.findall(r"(?<![\w./-])\d+\b", re.sub(r"(?<=\d)[,_](?=\d{3})", "", said)))
    numbers = sorted({number for number in found if number >= FEWEST})
    if len(numbers) >= 2:
        return numbers[-1], numbers[-2]
    return None, numbers[0] if numbers else None

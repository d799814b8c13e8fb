"""Texts as batches of about equal work: sorted by length, cut by a budget of tokens, padding included.

A batch costs its longest text times its number of texts. Sorted, almost nothing of that is padding; cut by tokens
rather than by count, a batch of short texts is as much work, and as much memory, as one of long texts.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence


class TokenBudget:
    """How many tokens go through a model at once: halved when memory runs out, and never raised again."""

    def __init__(self, tokens: int) -> None:
        self._tokens = tokens
        self._lock = threading.Lock()

    @property
    def tokens(self) -> int:
        """As it stands now."""
        return self._tokens

    def shrink_below(self, tokens: int) -> None:
        """A batch of so many did not fit: half of it is the most from now on. Several devices may say so at once."""
        with self._lock:
            self._tokens = max(1, min(self._tokens, tokens // 2))


def batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Places of texts, the longest first, in batches of at most ``budget`` padded tokens; a longer text goes alone.

    Longest first: whatever does not fit shows at once, before anything has been computed in vain.
    """
    places = sorted(range(len(lengths)), key=lambda place: -lengths[place])
    start = 0
    while start < len(places):
        count = max(1, budget // max(1, lengths[places[start]]))
        yield places[start : start + count]
        start += count

"""A fake embedder: deterministic vectors, calls that are counted, failures on demand."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from embedmig.errors import InputRefused
from embedmig.types import Answer, Limits, Role, Space, Vectors

ScriptedCall = Exception | Callable[[list[str]], Answer | None]
"""What a scripted call does: raise, or answer in its own way (None: the usual answer)."""


class FakeEmbedder:
    """Deterministic vectors by the hash of the text; counts what it is asked, and fails when told to.

    ``script`` is consumed one call at a time, None meaning an undisturbed call. ``poison``: texts with this in them
    raise InputRefused for their whole batch. ``nan``: texts with this in them get NaN, every time.
    """

    def __init__(
        self,
        dimensions: int = 8,
        *,
        limits: Limits | None = None,
        script: Iterable[ScriptedCall | None] = (),
        poison: str | None = None,
        nan: str | None = None,
        weights: str = "",
    ) -> None:
        self.limits = limits or Limits(batch_size=64, concurrency=2)
        self.dimensions = dimensions
        self.script = list(script)
        self.poison, self.nan = poison, nan
        self.calls: list[list[str]] = []
        self.seen: Counter[str] = Counter()
        self.roles: Counter[str] = Counter()
        self.closed = False
        self._weights = weights

    @property
    def texts(self) -> int:
        """Texts asked for so far, repeats included."""
        return self.seen.total()

    async def embed(self, texts: list[str], role: Role) -> Answer:
        """Vectors ``(n, dimensions)``, or what the script says."""
        self.calls.append(list(texts))
        self.seen.update(texts)
        self.roles[role] += 1
        fault = self.script.pop(0) if self.script else None
        if isinstance(fault, Exception):
            raise fault
        answer = fault(texts) if fault is not None else None
        return answer if answer is not None else self._answer(texts)

    def _answer(self, texts: list[str]) -> Answer:
        if self.poison is not None and any(self.poison in text for text in texts):
            raise InputRefused("poison")
        vectors = fake_vectors(texts, self.dimensions)
        for row, text in enumerate(texts):
            if self.nan is not None and self.nan in text:
                vectors[row] = np.nan
        return Answer(vectors, self.count_tokens(texts))

    def count_tokens(self, texts: Sequence[str]) -> int:
        """Words."""
        return sum(len(text.split()) for text in texts)

    def weights(self) -> str:
        """As given."""
        return self._weights

    def check_version(self) -> None:
        """Any version will do."""

    async def aclose(self) -> None:
        """Notes that it was closed."""
        self.closed = True


def fake_vectors(texts: Sequence[str], dimensions: int) -> Vectors:
    """``(n, dimensions)`` float32 in [-1, 1), not of unit norm: what :class:`FakeEmbedder` makes of ``texts``."""
    rows = [hashlib.shake_128(text.encode("utf-8", "surrogatepass")).digest(2 * dimensions) for text in texts]
    numbers = np.frombuffer(b"".join(rows), dtype="<i2").reshape(len(texts), dimensions)
    return np.ascontiguousarray(numbers / np.float32(32768), dtype=np.float32)


def fake_space(dimensions: int = 8, **changes: Any) -> Space:
    """A space for :class:`FakeEmbedder`."""
    fields: dict[str, Any] = {
        "collection": "docs",
        "model": "fake/hash",
        "version": "1",
        "dimensions": dimensions,
    }
    return Space(**fields | changes)

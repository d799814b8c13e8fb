"""A model for benchmarks that answers at a set speed, as a paid API does: ``model = "python/benchmarks.paced:embed"``.

``EMBEDMIG_PACED`` is ``ROWS_A_SECOND,DIMENSIONS``. A text always gets the same vector; a few of its directions carry most of
the variance, as in the vectors of real models.
"""

from __future__ import annotations

import asyncio
import os
import time
import zlib
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

LATENCY = 0.1
DIRECTIONS = 64
_next = 0.0  # when the texts that were taken so far will have been answered


async def embed(texts: list[str]) -> Any:
    """``(n, dimensions)``, no sooner than the speed allows."""
    global _next
    rate, dimensions = setting()
    now = time.monotonic()
    _next = max(_next, now) + len(texts) / rate
    await asyncio.sleep(max(_next - now, LATENCY))
    return vectors(texts, dimensions)


def setting() -> tuple[float, int]:
    """Rows a second, dimensions."""
    rate, dimensions = os.environ["EMBEDMIG_PACED"].split(",")
    return float(rate), int(dimensions)


def vectors(texts: Sequence[str], dimensions: int) -> Any:
    """``(n, dimensions)`` float32, of unit norm."""
    drawn = np.stack([np.random.default_rng(zlib.crc32(text.encode())).standard_normal(DIRECTIONS) for text in texts])
    found = drawn.astype(np.float32) @ directions(dimensions)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


@cache
def directions(dimensions: int) -> Any:
    """``(DIRECTIONS, dimensions)``: each direction's share of the variance falls with its number."""
    made = np.random.default_rng(0).standard_normal((DIRECTIONS, dimensions)) / np.sqrt(dimensions)
    return (made / np.sqrt(np.arange(1, DIRECTIONS + 1))[:, None]).astype(np.float32)

"""How large an HNSW index and a space's table get: pure arithmetic, from pgvector's and PostgreSQL's own layouts.

Measured against pgvector 0.8 ("hnsw graph no longer fits into maintenance_work_mem after N tuples", and the size of
finished indexes), at 64 to 768 dimensions and m from 8 to 32: within 3 %.
"""

from __future__ import annotations

from typing import Literal

IndexStorage = Literal["vector", "halfvec", "binary"]

PAGE = 8192
USABLE = PAGE - 24 - 8  # a page's header, and pgvector's own at its end
ITEM = 4  # a line pointer
TOAST_ABOVE = 2032
TOAST_CHUNK = 1996


def value_bytes(dimensions: int, storage: IndexStorage) -> int:
    """A vector with its header: 4 bytes a dimension, 2, or an eighth."""
    return {"vector": 4 * dimensions, "halfvec": 2 * dimensions, "binary": -(-dimensions // 8)}[storage] + 8


def graph_bytes(rows: int, dimensions: int, storage: IndexStorage, m: int) -> int:
    """What a build holds in memory: the vector, 2·m neighbours of 16 bytes, and 198 bytes of element and levels."""
    return rows * (value_bytes(dimensions, storage) + 32 * m + 198)


def index_bytes(rows: int, dimensions: int, storage: IndexStorage, m: int) -> int:
    """The finished index: an element (72 bytes and the vector) and its neighbours (6 bytes each), a page never split."""
    element = aligned(72 + value_bytes(dimensions, storage))
    neighbours = aligned(4 + 2 * m * 6)
    a_page = max(1, USABLE // (element + neighbours + 2 * ITEM))
    return int(rows / a_page * PAGE * 1.02) + PAGE


def table_bytes(rows: int, dimensions: int, storage: IndexStorage) -> int:
    """A space's table with its primary key (an int8 key, one chunk): long vectors stand apart, four pieces a page."""
    value = value_bytes(dimensions, storage)
    apart = value > TOAST_ABOVE - 150
    row = aligned(24 + 8 + 4 + 48 + 33 + 8 + (18 if apart else value)) + ITEM
    heap = rows / max(1, (PAGE - 24) // row) * PAGE
    toast = rows * -(-value // TOAST_CHUNK) * (PAGE / 4 + 20) if apart else 0.0
    return int(heap + toast + rows * 28)


def aligned(size: int) -> int:
    """The next multiple of eight."""
    return -(-size // 8) * 8

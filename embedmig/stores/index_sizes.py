"""How much memory and disk a space wants: the structures of pgvector and PostgreSQL, added up. Pure arithmetic, in bytes.

Sources: pgvector's ``src/hnsw.h``, ``hnswutils.c`` and ``hnswbuild.c`` (0.8) for graph and index; PostgreSQL's chapters
"Database Page Layout" and "TOAST" for the table. ``tests/integration/test_plan.py`` holds them to real builds.
"""

from __future__ import annotations

from functools import cache
from typing import Literal

IndexStorage = Literal["vector", "halfvec", "binary"]

PAGE = 8192
PAGE_ROOM = PAGE - 24  # after the page's header
INDEX_ROOM = PAGE_ROOM - 8  # after pgvector's own words at the page's end
ITEM = 4  # the line pointer of a tuple
ROW_FIELDS = 124  # of a space's row: header, a key of 8 bytes, chunk, a tag of 45 characters, content hash, time
KEY_ENTRY = 32  # in the primary key's index, nine tenths full
TOAST_FROM, TOAST_CHUNK, TOAST_HEADER, TOAST_POINTER, TOAST_ENTRY = 2032, 1996, 36, 18, 22


def graph_bytes(rows: int, dimensions: int, storage: IndexStorage, m: int) -> int:
    """Memory that a build wants in ``maintenance_work_mem`` to hold the whole graph.

    pgvector's README: "Indexes build significantly faster when the graph fits into maintenance_work_mem". A vector
    takes its element (128 bytes), itself, and 16 bytes a neighbour: 2·m at the base, and m on each of the
    1 / (m - 1) levels above it that it has on average; every allocation has a header of 8 bytes. Equal vectors
    share an element, so it is less where texts repeat. A parallel build wants 3 MB more, for itself.
    """
    element = (128 + 8) + (aligned(vector_bytes(dimensions, storage)) + 8)
    base = (8 + 8) + (8 + 16 * 2 * m + 8)
    above = (8 + (8 + 16 * m) + 8) / (m - 1)
    return round(rows * (element + base + above))


def index_bytes(rows: int, dimensions: int, storage: IndexStorage, m: int) -> int:
    """Disk of the HNSW index: as many elements with their neighbours on each page as fit, and a page of its own."""
    element = aligned(72 + vector_bytes(dimensions, storage)) + ITEM
    neighbours = aligned(4 + 6 * 2 * m) + ITEM
    if element + neighbours > INDEX_ROOM:  # the neighbours go to another page, where no element finds room
        return (1 + 2 * rows) * PAGE
    return (1 + -(-rows // (INDEX_ROOM // (element + neighbours)))) * PAGE


def table_bytes(rows: int, dimensions: int, storage: IndexStorage) -> int:
    """Disk of a space's table and its primary key, for a key of 8 bytes.

    A vector that makes its row longer than 2 kB lies outside of it in pieces of 2 kB, not compressed: that is how
    pgvector declares its types ("storage external").
    """
    vector = vector_bytes(dimensions, storage)
    outside = ROW_FIELDS + vector > TOAST_FROM
    row = aligned(ROW_FIELDS + (TOAST_POINTER if outside else vector)) + ITEM
    heap = -(-rows // (PAGE_ROOM // row)) * PAGE
    return heap + round(rows * (KEY_ENTRY + (outside_bytes(vector) if outside else 0)))


@cache
def outside_bytes(vector: int) -> float:
    """Disk of one vector outside of its row, as PostgreSQL places its pieces: on the page in hand; where that has no
    room, on one that is known to have; else on a new one.
    """
    value = vector - 4  # without the header that the pointer keeps
    pieces = [TOAST_CHUNK] * (value // TOAST_CHUNK) + ([value % TOAST_CHUNK] if value % TOAST_CHUNK else [])
    rooms, hand, many = [PAGE_ROOM], 0, 100
    for piece in pieces * many:
        size = aligned(TOAST_HEADER + piece) + ITEM
        if size > rooms[hand]:
            hand = next((page for page, room in enumerate(rooms) if room >= size), len(rooms))
            rooms += [PAGE_ROOM] if hand == len(rooms) else []
        rooms[hand] -= size
    return len(rooms) * PAGE / many + len(pieces) * TOAST_ENTRY


def vector_bytes(dimensions: int, storage: IndexStorage) -> int:
    """A value of pgvector's types: 8 bytes, and 4 a dimension, 2 for ``halfvec``, an eighth for ``binary``."""
    return 8 + {"vector": 4 * dimensions, "halfvec": 2 * dimensions, "binary": -(-dimensions // 8)}[storage]


def aligned(size: int) -> int:
    """``size`` rounded up to 8 bytes, as PostgreSQL places things."""
    return -(-size // 8) * 8

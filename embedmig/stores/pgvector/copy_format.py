"""A space's rows as PostgreSQL's binary COPY format: numpy lays the columns of fixed width out for all rows at once.

https://www.postgresql.org/docs/current/sql-copy.html, "Binary Format". Row by row through the driver costs three times
the CPU, which a model in the same process then lacks.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING

from embedmig.lazy import Later
from embedmig.stores.protocol import Batch

if TYPE_CHECKING:
    import numpy as np
else:
    np = Later("numpy")

HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER = b"\xff\xff"
HASH_BYTES = 32
NUMBERS = ("chunk", "chunks", "start", "end")
FLOAT = {"vector": ">f4", "halfvec": ">f2"}


def copy_bytes(batches: Sequence[Batch], storage: str, encoding: str) -> bytes:
    """What COPY is fed: the key's columns as text, chunk, content_hash, chunk_count, chunk_start, chunk_end, embedding."""
    rows = [row for batch in batches for row in batch.rows]
    codec = "utf-8" if encoding == "ascii" else encoding  # SQL_ASCII takes any bytes
    tails = fixed_columns(batches, storage)
    raw, size = memoryview(tails.tobytes()), tails.itemsize
    parts: list[bytes | memoryview] = [HEADER]
    for number, row in enumerate(rows):
        parts.append(struct.pack("!h", len(row.key) + 6))
        for value in row.key:
            text = value.encode(codec)
            parts += (struct.pack("!i", len(text)), text)
        parts.append(raw[number * size : (number + 1) * size])
    parts.append(TRAILER)
    return b"".join(parts)


def fixed_columns(batches: Sequence[Batch], storage: str) -> np.ndarray[tuple[int], np.dtype[np.void]]:
    """``(n,)`` records of all columns but the key, each after its length in bytes, big-endian."""
    pieces = list(chain.from_iterable(batch.pieces for batch in batches))
    dimensions = batches[0].vectors.shape[1]
    number = [("bytes", ">i4"), ("value", ">i4")]
    vector = [("bytes", ">i4"), ("dimensions", ">i2"), ("unused", ">i2"), ("value", FLOAT[storage], (dimensions,))]
    hashed = [("bytes", ">i4"), ("value", f"V{HASH_BYTES}")]
    record = np.dtype(
        [("chunk", number), ("hash", hashed), *((name, number) for name in NUMBERS[1:]), ("vector", vector)]
    )
    table = np.zeros(len(pieces), record)
    for name in NUMBERS:
        table[name]["bytes"] = 4
        table[name]["value"] = [getattr(piece, name) for piece in pieces]
    table["hash"]["bytes"] = HASH_BYTES
    hashes = b"".join(row.content_hash for batch in batches for row in batch.rows)
    table["hash"]["value"] = np.frombuffer(hashes, f"V{HASH_BYTES}")
    table["vector"]["bytes"] = 4 + dimensions * np.dtype(FLOAT[storage]).itemsize
    table["vector"]["dimensions"] = dimensions
    table["vector"]["value"] = np.concatenate([batch.vectors for batch in batches])
    return table

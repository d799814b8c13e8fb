"""A batch as PostgreSQL's binary COPY format: numpy lays the columns of fixed width out for all rows at once.

https://www.postgresql.org/docs/current/sql-copy.html, "Binary Format". Row by row through the driver costs three times
the CPU, which a model in the same process then lacks.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING, TypeAlias

from embedmig.lazy import Later
from embedmig.stores.protocol import Batch

if TYPE_CHECKING:
    import numpy as np
else:
    np = Later("numpy")

Records: TypeAlias = "np.ndarray[tuple[int], np.dtype[np.void]]"

HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER = b"\xff\xff"
HASH_BYTES = 32
NUMBERS = ("chunk", "chunks", "start", "end")
FLOAT = {"vector": ">f4", "halfvec": ">f2"}


def copy_bytes(batches: Sequence[Batch], last: Records, encoding: str) -> bytes:
    """What COPY is fed: the key's columns as text, chunk, content_hash, chunk_count, chunk_start, chunk_end, and the ``last``
    column.
    """
    rows = [row for batch in batches for row in batch.rows]
    codec = "utf-8" if encoding == "ascii" else encoding  # SQL_ASCII takes any bytes
    tails = fixed_columns(batches, last)
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


def vectors(batches: Sequence[Batch], storage: str) -> Records:
    """``(n,)`` vectors of pgvector's, each after its length in bytes, big-endian."""
    dimensions = batches[0].vectors.shape[1]
    vector = [("bytes", ">i4"), ("dimensions", ">i2"), ("unused", ">i2"), ("value", FLOAT[storage], (dimensions,))]
    found = np.zeros(sum(len(batch.pieces) for batch in batches), np.dtype(vector))
    found["bytes"] = 4 + dimensions * np.dtype(FLOAT[storage]).itemsize
    found["dimensions"] = dimensions
    found["value"] = np.concatenate([batch.vectors for batch in batches])
    return found


def uuids(ids: Sequence[str]) -> Records:
    """``(n,)`` of them, each after its length in bytes."""
    found = np.zeros(len(ids), np.dtype([("bytes", ">i4"), ("value", "V16")]))
    found["bytes"] = 16
    found["value"] = np.frombuffer(bytes.fromhex("".join(ids).replace("-", "")), "V16")
    return found


def fixed_columns(batches: Sequence[Batch], last: Records) -> Records:
    """``(n,)`` records of all columns but the key, each after its length in bytes, big-endian."""
    pieces = list(chain.from_iterable(batch.pieces for batch in batches))
    number = [("bytes", ">i4"), ("value", ">i4")]
    hashed = [("bytes", ">i4"), ("value", f"V{HASH_BYTES}")]
    record = np.dtype(
        [("chunk", number), ("hash", hashed), *((name, number) for name in NUMBERS[1:]), ("last", last.dtype)]
    )
    table = np.zeros(len(pieces), record)
    for name in NUMBERS:
        table[name]["bytes"] = 4
        table[name]["value"] = [getattr(piece, name) for piece in pieces]
    table["hash"]["bytes"] = HASH_BYTES
    hashes = b"".join(row.content_hash for batch in batches for row in batch.rows)
    table["hash"]["value"] = np.frombuffer(hashes, f"V{HASH_BYTES}")
    table["last"] = last
    return table

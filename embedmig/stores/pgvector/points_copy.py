"""Points as PostgreSQL's binary COPY format, for a table that :mod:`embedmig.stores.pgvector.external` has made."""

from __future__ import annotations

import json
import struct
import uuid
from collections.abc import Sequence

import numpy as np

from embedmig.stores.copy_format import FLOAT, HEADER, TRAILER
from embedmig.stores.external import Point

TEXT_OID = 25
JSONB_VERSION = b"\1"


def copy_bytes(points: Sequence[Point], version: str, storage: str) -> bytes:
    """Id, key, chunk, content hash, version, columns, vector."""
    vectors = np.stack([point.vector for point in points]).astype(FLOAT[storage])
    head = struct.pack("!hh", vectors.shape[1], 0)
    parts = [HEADER]
    for point, vector in zip(points, vectors, strict=True):
        parts.append(struct.pack("!h", 7))
        for field in (
            uuid.UUID(point.id).bytes, text_array(point.key), struct.pack("!i", point.chunk), point.content_hash,
            version.encode(), JSONB_VERSION + json.dumps(dict(point.columns), ensure_ascii=False).encode(), head + vector.tobytes(),
        ):  # fmt: skip
            parts += (struct.pack("!i", len(field)), field)
    return b"".join([*parts, TRAILER])


def text_array(texts: Sequence[str]) -> bytes:
    """``text[]`` of one dimension."""
    parts = [struct.pack("!iiIii", 1, 0, TEXT_OID, len(texts), 1)]
    for one in texts:
        encoded = one.encode()
        parts += (struct.pack("!i", len(encoded)), encoded)
    return b"".join(parts)

"""Documents and filters as Pinecone takes them, cut to its limits.

The limits are those of https://docs.pinecone.io/reference/api/database-limits.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from embedmig.errors import VectorRefused
from embedmig.source import Source
from embedmig.stores.external import CHUNK, HASH, KEY, VERSION, Point

VECTOR = "embedmig_vector"
"""The field that holds the vector, in an index of embedmig's own."""

REQUEST_BYTES = 2_000_000  # 2 MB, less what stands around the documents
REQUEST_DOCUMENTS = 1_000
METADATA_BYTES = 40_960
EXACT_INTEGERS = 2**53  # numbers are kept as 64-bit floats


@dataclass(frozen=True, slots=True)
class Document:
    """A point as it is sent; ``size`` is its bytes in JSON."""

    id: str
    body: Mapping[str, Any]
    size: int


def document(point: Point, tag: str) -> Document:
    """Raises :class:`VectorRefused` for what Pinecone would refuse of it: a zero vector, more than 40 KB of metadata."""
    import orjson

    if not np.any(point.vector):
        raise VectorRefused(f"{tag}: the vector of key {', '.join(point.key)} is zero, which Pinecone does not take")
    fields: dict[str, Any] = {KEY: list(point.key), CHUNK: point.chunk, HASH: point.content_hash.hex(), VERSION: tag}
    if len(point.key) > 1:
        fields |= {key_field(place): text for place, text in enumerate(point.key)}
    fields |= {name: value for name, given in point.columns.items() if (value := encoded(given)) is not None}
    metadata = len(orjson.dumps(fields))
    if metadata > METADATA_BYTES:
        raise VectorRefused(
            f"{tag}: the columns of key {', '.join(point.key)} take {metadata:,} bytes, Pinecone holds {METADATA_BYTES:,}",
            hint="leave long columns out of columns",
        )
    # Written as float32 and read back: the shortest digits that say the same number, half of what float64 takes.
    vector = orjson.dumps(np.ascontiguousarray(point.vector, np.float32), option=orjson.OPT_SERIALIZE_NUMPY)
    body = {"_id": point.id, VECTOR: orjson.loads(vector), **fields}
    return Document(point.id, body, len(vector) + metadata + len(point.id) + len(VECTOR) + 32)


def requests(documents: Sequence[Document]) -> Iterator[list[Document]]:
    """Cut to the limits of one request."""
    page: list[Document] = []
    size = 0
    for one in documents:
        if page and (len(page) == REQUEST_DOCUMENTS or size + one.size > REQUEST_BYTES):
            yield page
            page, size = [], 0
        page.append(one)
        size += one.size
    if page:
        yield page


def key_field(place: int) -> str:
    """Where one part of a key of several columns stands: a filter on a list does not know places."""
    return f"{KEY}_{place}"


def encoded(value: Any) -> Any:
    """As metadata holds it: a text, a number, a truth value, or a list of texts; None where there is nothing to hold."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return value if abs(value) <= EXACT_INTEGERS else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, list | tuple | set):
        return [text(one) for one in value if one is not None]
    return text(value)


def text(value: Any) -> str:
    """Of what metadata has no type for."""
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).hex()
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, datetime) and value.tzinfo is not None:
        value = value.astimezone(UTC)  # one spelling of one moment, for filters
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def condition(source: Source, where: Mapping[str, Any]) -> dict[str, Any] | None:
    """The filter that says what ``where`` says; None: all. Key columns are looked for in the key, as text."""
    clauses = [_clause(source, name, value) for name, value in where.items()]
    if len(clauses) < 2:
        return clauses[0] if clauses else None
    return {"$and": clauses}


def _clause(source: Source, name: str, value: Any) -> dict[str, Any]:
    keys = [column.name for column in source.key]
    field = name
    wanted = list(value) if isinstance(value, list | tuple | set) else [value]
    if name in keys:
        field = KEY if len(keys) == 1 else key_field(keys.index(name))
        wanted = [text(one) for one in wanted]
    elif any(column.name == name and column.type.endswith("[]") for column in source.columns):
        wanted = [one if one is None else text(one) for one in wanted]
    values = [encoded(one) for one in wanted if one is not None]
    clauses: list[dict[str, Any]] = []
    if values:
        clauses.append({field: {"$eq": values[0]} if len(values) == 1 else {"$in": values}})
    if None in wanted:
        clauses.append({field: {"$exists": False}})
    return clauses[0] if len(clauses) == 1 else {"$or": clauses}


def found_by(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The filter that finds a point of ours by what it says of itself."""
    parts: list[dict[str, Any]] = [{KEY: {"$eq": part}} for part in fields[KEY]]
    return {"$and": [*parts, {CHUNK: {"$eq": fields[CHUNK]}}, {HASH: {"$eq": fields[HASH]}}]}

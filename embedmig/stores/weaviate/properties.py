"""A table's columns as Weaviate's properties: names, types, values.

A property's name begins with a lower-case letter, names that differ in case are one, and ``id`` and ``vector`` are taken. So
a column's name stands as it is where it is made of ``a-z0-9_``; else what is not a letter or digit of those is spelt out.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, time
from typing import TYPE_CHECKING, Any

from embedmig.errors import StoreError
from embedmig.source import Column, Source
from embedmig.stores.external import CHUNK, HASH, KEY, VERSION

if TYPE_CHECKING:
    from weaviate.classes.config import Property

PLAIN = re.compile(r"[_a-z][_0-9a-z]*")
TAKEN = frozenset(("id", "_id", "_additional", "vector"))
SPELT = "embedmig_x_"
NAME_CHARACTERS = 231
EXACT = 2**53  # whole numbers travel as doubles

TYPES: Mapping[str, str] = {"smallint": "int", "integer": "int", "bigint": "int", "real": "number", "double precision": "number", "boolean": "boolean"}  # fmt: skip
"""Of columns that are no text in Weaviate; an array's are the same with ``[]``."""

OWN: Mapping[str, str] = {KEY: "text[]", CHUNK: "int", HASH: "text", VERSION: "text"}


def property_name(column: str) -> str:
    """``Größe`` is ``embedmig_x__47_r_f6__df_e``."""
    if PLAIN.fullmatch(column) and column not in TAKEN and not column.startswith(SPELT):
        return column
    return SPELT + re.sub(r"[^a-z0-9]", lambda found: f"_{ord(found[0]):x}_", column)


def column_name(name: str) -> str:
    """The column that has this property."""
    if not name.startswith(SPELT):
        return name
    return re.sub(r"_([0-9a-f]+)_", lambda found: chr(int(found[1], 16)), name.removeprefix(SPELT))


def property_type(column: Column) -> str:
    """By PostgreSQL's type, whatever domain is over it."""
    base = column.base or column.type
    element = base.removesuffix("[]")
    return TYPES.get(element, "text") + base[len(element) :]


def types_of(source: Source) -> dict[str, str]:
    """Every property of a collection of ours, by name. Columns of the key are texts, as :data:`KEY` has them."""
    columns = {property_name(column.name): property_type(column) for column in source.columns}
    return {**OWN, **columns, **{property_name(column.name): "text" for column in source.key}}


def declared(name: str, kind: str) -> Property:
    """Filters compare the whole value: Weaviate's default compares words. A vectorizer of an adopted collection leaves it out."""
    from weaviate.classes.config import DataType, Property, Tokenization

    text = kind.startswith("text")
    return Property(
        name=name,
        data_type=DataType(kind),
        index_filterable=True,
        index_searchable=False if text else None,
        skip_vectorization=True,
        vectorize_property_name=False,
        tokenization=Tokenization.FIELD if text else None,
    )


def plain(value: Any, kind: str) -> Any:
    """As a point has it; None for what Weaviate has no value of. Raises :class:`StoreError`."""
    if value is None:
        return None
    if kind.endswith("[]"):
        return [element(one, kind[:-2]) for one in _flat(value) if one is not None]
    if kind == "int" and abs(int(value)) > EXACT:
        raise StoreError(
            f"{value} is beyond ±2^53, where Weaviate's batches do not keep whole numbers apart",
            hint="leave the column out of columns, or make it text",
        )
    return element(value, kind)


def element(value: Any, kind: str) -> Any:
    """As a list or a filter has it: in those, whole numbers are exact."""
    if kind == "int":
        return int(value)
    if kind == "number":
        return float(value) if math.isfinite(float(value)) else None
    return bool(value) if kind == "boolean" else text(value)


def text(value: Any) -> str:
    """What PostgreSQL has and Weaviate has not."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime) and value.tzinfo:
        return value.astimezone(UTC).isoformat()
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.hex()
    return json.dumps(value, default=str) if isinstance(value, dict | list) else str(value)


def _flat(value: Any) -> Iterable[Any]:
    for one in value if isinstance(value, list | tuple) else [value]:
        yield from _flat(one) if isinstance(one, list | tuple) else [one]

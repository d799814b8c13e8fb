"""How a point stands in a collection of Milvus: its fields, and expressions over them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from embedmig.errors import StoreUnsuitable
from embedmig.stores.external import CHUNK, HASH, KEY, VERSION, Held, Near

ID, VECTOR = "embedmig_id", "embedmig_vector"  # of collections of embedmig's own
FLOAT_VECTOR, INT64 = 101, 5  # of pymilvus.DataType


@dataclass(frozen=True, slots=True)
class Fields:
    """The primary key and the vector of a collection. ``numeric``: ids are whole numbers. ``refusal`` says why points can't be
    given a version.
    """

    id: str = ID
    vector: str = VECTOR
    numeric: bool = False
    dimensions: int = 0
    refusal: str = ""

    @classmethod
    def of(cls, described: Mapping[str, Any], wanted: str | None) -> Fields:
        """Of a collection that the application made; ``wanted`` is the vector's name in the store's options. Raises
        :class:`StoreUnsuitable`.
        """
        fields = {field["name"]: field for field in described["fields"]}
        primary = next(field for field in fields.values() if field.get("is_primary"))
        vectors = [
            name for name, field in fields.items() if int(field["type"]) == FLOAT_VECTOR and wanted in (None, name)
        ]
        if len(vectors) != 1:
            raise StoreUnsuitable(
                f"collection {described['collection_name']!r} has {len(vectors)} fields of float vectors"
                + (f" with the name {wanted}" if wanted else ""),
                hint='say which is meant: vector = "NAME" in the options of the store',
            )
        refusal = ""
        if described.get("auto_id") or primary.get("auto_id"):
            refusal = "the server makes its ids, so that a point can't be written again under its own"
        elif not described.get("enable_dynamic_field"):
            refusal = "it has no dynamic field that could hold the version"
        return cls(
            primary["name"],
            vectors[0],
            int(primary["type"]) == INT64,
            int(fields[vectors[0]]["params"]["dim"]),
            refusal,
        )

    def native(self, ids: Sequence[str]) -> list[int] | list[str]:
        """As the collection has them."""
        return [int(one) for one in ids] if self.numeric else list(ids)

    def held(self, row: Mapping[str, Any]) -> Held:
        """The key as a list again; no vector."""
        said = {name: value for name, value in row.items() if name not in (self.id, self.vector) and value is not None}
        if KEY in said:
            said[KEY] = json.loads(said[KEY])
        return Held(str(row[self.id]), said)


def filter_of(where: Mapping[str, Any]) -> str:
    """An expression; columns are keys of the dynamic field, whatever their names are. NULL is left to PostgreSQL, which has the last
    word. A list is spelt out: milvus-lite has no ``in`` there.
    """
    parts = []
    for name, value in where.items():
        wanted = value if isinstance(value, list) else [value]
        if None not in wanted:
            either = " or ".join(f"$meta[{quoted(name)}] == {quoted(one)}" for one in wanted)
            parts.append(f"({either})" if wanted else f"{CHUNK} < 0")
    return " and ".join(parts)


def quoted(value: Any) -> str:
    """A constant of an expression: strings are quoted as JSON quotes them, with every character beyond ASCII as it is."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def near_of(said: Mapping[str, Any], one: str, distance: float) -> Near:
    """A point that was found; of an adopted collection, one that says nothing of embedmig's."""
    return Near(
        one,
        tuple(json.loads(said.get(KEY) or "[]")),
        int(said.get(CHUNK) or 0),
        bytes.fromhex(said.get(HASH) or ""),
        distance,
    )


def key_field(place: int) -> str:
    """Where a part of the key stands for filters."""
    return f"{KEY}_{place}"


def own_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """What of a point is embedmig's own."""
    return {
        name: value for name, value in row.items() if name in (ID, VECTOR, CHUNK, HASH, VERSION) or name.startswith(KEY)
    }

"""Where the vectors of an adopted collection of a store beside PostgreSQL are, and how its points say whose they are."""

from __future__ import annotations

import json
from typing import NamedTuple

from embedmig.database.registry import Place
from embedmig.errors import PlanError

VERSION = "embedmig_version"
"""The field of a point's payload that says its version, in collections of embedmig's own and in adopted ones."""
ID = "id"
PAYLOAD = "payload."


class AdoptedPlace(NamedTuple):
    """``schema`` and ``table`` are those of the manifest. ``key`` is ``id``, or ``payload.FIELD``. ``alias`` is the store's alias that
    showed the collection before embedmig, which is given back; empty where there was none.
    """

    schema: str
    table: str
    key: str
    alias: str
    collection: str

    @classmethod
    def of(cls, place: Place) -> AdoptedPlace:
        """Of a registered space that is adopted."""
        schema, table, said, collection = place
        key, alias = json.loads(said)
        return cls(schema, table, key, alias, collection)

    @property
    def as_place(self) -> Place:
        """As the registry keeps it."""
        return (self.schema, self.table, json.dumps([self.key, self.alias], ensure_ascii=False), self.collection)

    @property
    def field(self) -> str | None:
        """The payload's field that holds the key; None where the point's id is the key."""
        return self.key.removeprefix(PAYLOAD) if self.key.startswith(PAYLOAD) else None


def is_adopted(place: Place) -> bool:
    """Whether a place beside PostgreSQL is of an adopted collection: those that embedmig makes say nothing of a key."""
    return bool(place[2])


def check_key(key: str) -> None:
    """Raises :class:`PlanError` for what names neither the id nor a field."""
    if key != ID and not (key.startswith(PAYLOAD) and key != PAYLOAD):
        raise PlanError(
            f"key {key!r} says neither the point's id nor a field of its payload",
            hint='key="id", or key="payload.FIELD"',
        )


def text_of(value: object) -> str | None:
    """A key as PostgreSQL prints it; None for what can't be one. Some stores keep every number as a float."""
    if isinstance(value, bool) or not isinstance(value, str | int | float) or value == "":
        return None
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else repr(value)
    return str(value)

"""What a search's ``where`` says of points: by Weaviate's filters, and of a point's properties."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from embedmig.errors import UsageError
from embedmig.stores.external import VERSION
from embedmig.stores.weaviate.properties import element, property_name


@dataclass(frozen=True, slots=True)
class Conditions:
    """Columns of the key and others, with the value that they must have, or a list: one of them. ``types`` are the properties'."""

    where: Mapping[str, Any]
    types: Mapping[str, str]

    @property
    def never(self) -> bool:
        """One of none."""
        return any(_values(value) == [] for value in self.where.values())

    @property
    def properties(self) -> dict[str, list[Any]]:
        """The values that each may have, by property; None: no value. Raises :class:`UsageError`."""
        found = {}
        for name, value in self.where.items():
            stored = property_name(name)
            if stored not in self.types:
                raise UsageError(f"there is no column {name!r} in Weaviate", hint="name it in columns, or in the key")
            kind = self.types[stored].removesuffix("[]")
            found[stored] = [None if one is None else element(one, kind) for one in _values(value)]
        return found

    def filter(self, version: str | None) -> Any:
        """By the client's own classes; with ``version``, of that version alone."""
        from weaviate.classes.query import Filter

        parts = [Filter.by_property(VERSION).equal(version)] if version else []
        for name, values in self.properties.items():
            some = [value for value in values if value is not None]
            either = [Filter.by_property(name).contains_any(some)] if some else []
            none = [Filter.by_property(name).is_none(True)] if None in values else []
            parts.append(Filter.any_of([*either, *none]))
        return Filter.all_of(parts) if parts else None

    def hold(self, held: Mapping[str, Any]) -> bool:
        """As :meth:`filter` has it, of a point's properties."""
        return all(any(one in values for one in _values(held.get(name))) for name, values in self.properties.items())


def _values(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]

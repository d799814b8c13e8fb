"""Ids, paths into payloads, values and conditions as Qdrant has them."""

from __future__ import annotations

import re
from datetime import datetime
from typing import TYPE_CHECKING, Any

from embedmig.errors import UsageError
from embedmig.lazy import Later
from embedmig.source import Column

if TYPE_CHECKING:
    from qdrant_client import models
else:
    models = Later("qdrant_client.models")

PLAIN = re.compile(r"[A-Za-z0-9_-]+")


def native(one: str) -> int | str:
    """Qdrant's ids are UUIDs or whole numbers; embedmig's own are UUIDs."""
    return int(one) if one.isdecimal() else one


def path(name: str) -> str:
    """A field at the top of a payload, whatever its name: dots and brackets would lead into it."""
    return name if PLAIN.fullmatch(name) else f'"{name}"'


def payload_type(column: Column) -> str:
    """The payload index for a column of PostgreSQL, or for the elements of an array."""
    name = (column.base or column.type).removeprefix("pg_catalog.").removesuffix("[]").lower()
    if name in ("smallint", "integer", "bigint", "int2", "int4", "int8"):
        return "integer"
    if name in ("real", "double precision", "float4", "float8"):
        return "float"
    if name in ("boolean", "bool"):
        return "bool"
    return "datetime" if name.startswith("timestamp") else "keyword"


def as_text(value: Any) -> Any:
    """A value of the key, or several, as points have it."""
    if isinstance(value, list | tuple | set | frozenset):
        return [as_text(one) for one in value]
    return str(value).lower() if isinstance(value, bool) else str(value)


def condition(name: str, value: Any, kind: str = "keyword") -> Any:
    """That a column has a value; of a list, one of them. ``kind`` is the column's payload index."""
    field = path(name)
    if isinstance(value, list | tuple | set | frozenset):
        # min_should, because a filter with nothing in `should` lets everything through
        either = [condition(name, one, kind) for one in value]
        return models.Filter(min_should=models.MinShould(conditions=either, min_count=1))
    if (
        value is None
    ):  # it is not in the payload, and Qdrant itself takes a field away that is set to null; [] counts as empty
        return models.IsEmptyCondition(is_empty=models.PayloadField(key=field))
    if isinstance(value, datetime) or kind == "datetime":
        moment = as_moment(name, value)
        return models.FieldCondition(key=field, range=models.DatetimeRange(gte=moment, lte=moment))
    if kind == "float" and isinstance(value, float | int):
        return models.FieldCondition(key=field, range=models.Range(gte=float(value), lte=float(value)))
    if isinstance(value, float):
        return models.FieldCondition(key=field, range=models.Range(gte=value, lte=value))
    return models.FieldCondition(key=field, match=models.MatchValue(value=value))


def as_moment(name: str, value: Any) -> datetime:
    """A time stamp, or its ISO text. Raises :class:`UsageError`."""
    if isinstance(value, datetime):
        return value
    try:
        return datetime.fromisoformat(str(value))
    except ValueError as error:
        raise UsageError(
            f"{name} is compared with {value!r}, which is no time stamp", hint="2026-01-31T12:00:00+00:00"
        ) from error

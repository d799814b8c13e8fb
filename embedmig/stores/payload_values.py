"""What columns of PostgreSQL are in the points of a store: one value, one spelling, for every store and for filters."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import UTC, date, datetime
from datetime import time as dtime
from decimal import Decimal
from typing import Any


def payload(columns: Mapping[str, Any]) -> dict[str, Any]:
    """A row's columns as points have them."""
    return {name: payload_value(value) for name, value in columns.items()}


def wanted_value(value: Any, kind: str) -> Any:
    """A value that a column of PostgreSQL's type ``kind`` must have, or several, as points have it."""
    if isinstance(value, list | tuple | set | frozenset):
        return [wanted_value(one, kind) for one in value]
    kind = kind.removeprefix("pg_catalog.").removesuffix("[]")
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal) or not math.isfinite(value):
        return payload_value(value)
    if kind.startswith("numeric"):
        return payload_value(Decimal(str(value)))
    if kind in ("real", "double precision"):
        return float(value)
    return payload_value(int(value) if value == int(value) else value)


def payload_value(value: Any) -> Any:
    """A column's value as points have it, once and for all stores: what JSON has, of numbers what fits 64 bits; moments as ISO
    text in UTC; all else as text. What JSON has not, such as NaN, is None. One value has one spelling, for filters.
    """
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**63 else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value.astimezone(UTC).isoformat()
    if isinstance(value, date | dtime):
        return value.isoformat()
    if isinstance(value, list | tuple | set | frozenset):
        return [said for one in value if (said := payload_value(one)) is not None]
    return _text(value)


def _text(value: Any) -> str:
    """Of a type that JSON has not, or that payloads don't nest."""
    if isinstance(value, Decimal) and value.is_finite():
        return format(value.normalize(), "f")
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).hex()
    return json.dumps(value, ensure_ascii=False, sort_keys=True, default=str) if isinstance(value, dict) else str(value)

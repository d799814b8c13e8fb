"""One JSON document a command, with ``"schema": 1``; the shapes of DESIGN 2.3."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from embedmig.errors import EmbedmigError

SCHEMA = 1


def document(name: str, data: Any) -> str:
    """A dataclass becomes the document; a list becomes its field ``name``."""
    fields = plain(data)
    body = fields if isinstance(fields, dict) else {name: fields}
    return json.dumps({"schema": SCHEMA} | body, ensure_ascii=False, indent=2)


def error_document(error: EmbedmigError) -> str:
    """What a failed command prints under ``--json``."""
    body = {"message": error.message, "hint": error.hint, "exit_code": error.exit_code, "type": type(error).__name__}
    return json.dumps({"schema": SCHEMA, "error": body}, ensure_ascii=False, indent=2)


def plain(value: Any) -> Any:
    """Dataclasses, paths and times as JSON has them."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return str(value)

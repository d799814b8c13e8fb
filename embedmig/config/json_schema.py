"""``embedmig.toml`` as a JSON Schema, for editors: what the loader checks, as far as a schema can say it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from embedmig.config import loading, toml_values
from embedmig.config.providers import EMBEDDER
from embedmig.config.toml_values import Check, Number, OneOf

Schema = dict[str, Any]
TEXT: Schema = {"type": "string"}
TEXTS: Schema = {"anyOf": [TEXT, {"type": "array", "items": TEXT}]}
TIME: Schema = {"type": ["string", "number"]}
BY_CHECK: dict[Check, Schema] = {
    toml_values.string: TEXT, toml_values.any_string: TEXT, toml_values.schema_name: TEXT, toml_values.strings: TEXTS,
    toml_values.columns: TEXTS, toml_values.devices: TEXTS, toml_values.boolean: {"type": "boolean"},
    toml_values.parse_duration: TIME, toml_values.patience: TIME, toml_values.server_time: TIME,
    toml_values.parse_size: {"type": ["string", "integer"]}, toml_values.table: {"type": "object"},
    toml_values.cut_values: {"type": "object", "additionalProperties": {
        "anyOf": [{"type": "number"}, {"type": "object", "additionalProperties": {"type": "number"}}]
    }},
    toml_values.chunk: {"type": ["object", "integer"]},
}  # fmt: skip


def json_schema() -> Schema:
    """Of the whole file; JSON Schema 2020-12."""
    embedding = _table(loading._EMBEDDING)
    collection = _table(loading._COLLECTION, embedding=embedding, required=("table", "key", "text", "alias"))
    root = _table(
        loading._ROOT,
        embedmig=_table(loading._MAIN, connect=_table(loading._CONNECT)), collections=_named(collection),
        embedders=_named(_table(EMBEDDER)), stores=_named(_table(loading._STORE)), gates=_table(loading._GATES),
        throttle=_table(loading._THROTTLE), check=_table(loading._CHECK), index=_table(loading._INDEX),
        backfill=_table(loading._BACKFILL), ray=_table(loading._RAY), hooks=_table(loading._HOOKS),
    )  # fmt: skip
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": loading.FILE_NAME} | root


def _named(one: Schema) -> Schema:
    """A table whose keys are the user's own names."""
    return {"type": "object", "additionalProperties": one}


def _table(checks: Mapping[str, Check], *, required: tuple[str, ...] = (), **inner: Schema) -> Schema:
    """A table with these keys and no others; ``inner`` are the tables within it."""
    keys = {name: inner.get(name) or _value(check) for name, check in checks.items()}
    return {"type": "object", "properties": keys, "additionalProperties": False} | (
        {"required": list(required)} if required else {}
    )


def _value(check: Check) -> Schema:
    if isinstance(check, OneOf):
        return {"enum": list(check.words)}
    if isinstance(check, Number):
        bounds: Schema = {"exclusiveMinimum" if check.above else "minimum": check.low}
        bounds |= {} if check.high == float("inf") else {"maximum": check.high}
        return {"type": "integer" if check.whole else "number"} | bounds
    return BY_CHECK.get(check, {})

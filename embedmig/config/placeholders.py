"""``${NAME}`` in the configuration: one file for many databases or schemas. Values come from the environment."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from embedmig.config.toml_lines import KeyPath
from embedmig.config.toml_values import TomlFile

_PLACEHOLDER = re.compile(r"(\$?)\$\{([^}]*)\}")
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
LEFT_AS_THEY_ARE = frozenset(("hooks",))
"""The shell expands those, from the same environment."""


def expanded(file: TomlFile, values: Mapping[str, str]) -> TomlFile:
    """The file with every ``${NAME}`` replaced; ``$${NAME}`` stands for the text itself. Raises :class:`ConfigError`."""
    document = {
        key: value if key in LEFT_AS_THEY_ARE else _expanded(file, (key,), value, values)
        for key, value in file.document.items()
    }
    return replace(file, document=document)


def _expanded(file: TomlFile, at: KeyPath, value: Any, values: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return _PLACEHOLDER.sub(partial(_value, file, at, values), value)
    if isinstance(value, dict):
        return {key: _expanded(file, (*at, key), item, values) for key, item in value.items()}
    if isinstance(value, list):
        return [_expanded(file, at, item, values) for item in value]
    return value


def _value(file: TomlFile, at: KeyPath, values: Mapping[str, str], found: re.Match[str]) -> str:
    name = found[2]
    if found[1]:
        return f"${{{name}}}"
    if not NAME.fullmatch(name):
        file.fail(at, f"has ${{{name}}}, which is no name", "letters, digits and '_'; $${…} is the text itself")
    if not values.get(name):
        hint = f"export {name}=…; or --each FILE, which sets the variables of each tenant"
        file.fail(at, f"has ${{{name}}}, and {name} is not set", hint)
    return values[name]

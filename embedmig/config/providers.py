"""``[embedders.NAME]``: how to reach a provider, checked; nothing in it may shape a vector."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from embedmig.config import toml_values
from embedmig.config.settings import EmbedderSettings
from embedmig.config.toml_lines import KeyPath
from embedmig.config.toml_values import Check, TomlFile

FIXED = frozenset({"model", "input", "dimensions", "encoding_format"})
"""What a request is made of."""
SHAPING = FIXED | {
    "input_type", "task", "task_type", "prompt", "prompt_name", "instruction", "output_dimension", "outputDimensionality",
    "output_dtype", "embedding_type", "embedding_types", "normalize", "normalized", "late_chunking", "pooling", "truncate",
    "truncation", "add_special_tokens",
}  # fmt: skip
"""Options of embedding APIs that change vectors: of OpenAI, Voyage, Cohere, Jina, Gemini, Mistral, Nomic, TEI and vLLM."""
SHAPING_HINT = 'Space(…, roles={"document": {…}, "query": {…}}, dimensions=…) in the script says it'

EMBEDDER_KINDS = ("openai", "litellm", "sentence-transformers", "fastembed", "model2vec", "wordllama", "python")
EMBEDDER: dict[str, Check] = {
    "kind": toml_values.one_of(*EMBEDDER_KINDS),
    "api_key": toml_values.string,
    "base_url": toml_values.string,
    "headers": toml_values.models,
    "extra_body": toml_values.table,
    "organization": toml_values.string,
    "project": toml_values.string,
    "deployment": toml_values.deployments,
    "api_version": toml_values.string,
    "concurrency": toml_values.number(1, whole=True),
    "batch_size": toml_values.number(1, whole=True),
    "requests_per_minute": toml_values.number(1, whole=True),
    "tokens_per_minute": toml_values.number(1, whole=True),
    "max_cost": toml_values.number(0),
    "timeout": toml_values.patience,
    "price": toml_values.number(0),
    "device": toml_values.devices,
    "tokens_per_batch": toml_values.number(1, whole=True),
    "prices": toml_values.prices,
    "models": toml_values.models,
    "path": toml_values.string,
    "give_up_after": toml_values.patience,
    "reserve": toml_values.number(0, 0.9),
    "mode": toml_values.one_of("live", "batch"),
}


def read_embedder(file: TomlFile, name: str, raw: object, environ: Mapping[str, str]) -> EmbedderSettings:
    at, beside = ("embedders", name), file.path.parent
    if isinstance(raw, dict) and "dtype" in raw:
        hint = (
            'Space(…, dtype="float16") in the script; revision --dtype and [collections.NAME.embedding] write it there'
        )
        file.fail((*at, "dtype"), "shapes the vectors: it is a part of the space", hint)
    values = file.section(at, raw, EMBEDDER)
    for option in values.get("extra_body", {}).keys() & SHAPING:
        file.fail((*at, "extra_body", option), "shapes the vectors: it is a part of the space", SHAPING_HINT)
    if values.get("mode") == "batch" and values.get("kind", name) != "openai":
        file.fail((*at, "mode"), 'can be "batch" for openai alone')
    look_up_key(file, at, values, environ)
    _look_up_headers(file, at, values, environ)
    if "deployment" in values:
        values["deployments"] = values.pop("deployment")
    if "api_version" in values and "base_url" not in values:
        file.fail((*at, "api_version"), "has no base_url beside it", 'base_url = "https://RESOURCE.openai.azure.com"')
    if "path" in values:
        values["path"] = _beside(beside, values["path"])
    if "models" in values:
        values["models"] = {model: _beside(beside, place) for model, place in values["models"].items()}
    return EmbedderSettings(**values)


def look_up_key(file: TomlFile, at: KeyPath, values: dict[str, Any], environ: Mapping[str, str]) -> None:
    """Not refused when it isn't set: most commands need no key. Who needs it can name the variable."""
    if "api_key" not in values:
        return
    kind, _, variable = values["api_key"].partition(":")
    if kind != "env" or not variable:
        example = f'api_key = "env:{at[-1].upper().replace("-", "_")}_API_KEY"'
        file.fail((*at, "api_key"), "is a key in plain text", f"{example} names the variable that holds it")
    values["api_key"], values["api_key_variable"] = toml_values.secret(environ.get(variable, "")), variable


def _look_up_headers(file: TomlFile, at: KeyPath, values: dict[str, Any], environ: Mapping[str, str]) -> None:
    """``"env:NAME"`` is a variable's value, None where it isn't set; a header that usually holds a secret is nothing else."""
    found: dict[str, str | None] = {}
    variables = {}
    for name, value in values.get("headers", {}).items():
        kind, _, variable = value.partition(":")
        if kind == "env" and variable:
            variables[name] = variable
            found[name] = toml_values.secret(environ.get(variable, ""))
        elif re.search(r"auth|key|token|secret|cookie|password", name, re.IGNORECASE):
            file.fail(
                (*at, "headers", name), "is a secret in plain text", f'"env:NAME" names the variable that holds {name}'
            )
        else:
            found[name] = value
    if found:
        values["headers"], values["header_variables"] = found, variables


def _beside(directory: Path, place: str) -> str:
    """A path from the file, made absolute: relative to the file, not to where the command was started."""
    return place if place.startswith("package:") else str((directory / Path(place).expanduser()).resolve())

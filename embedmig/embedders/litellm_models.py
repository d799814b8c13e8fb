"""What litellm calls a model, and what its own list says that it costs; read from the package's files, without its import."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from embedmig.config.settings import EmbedderSettings
from embedmig.embedders.weights import package_folder
from embedmig.types import Space

PRICES = "model_prices_and_context_window_backup.json"


@dataclass(frozen=True, slots=True)
class Listed:
    """USD per million tokens, and the page that the list names for it."""

    per_million: float
    source: str


def name_of(space: Space, settings: EmbedderSettings) -> str:
    """``PROVIDER/MODEL``: behind ``litellm/`` the name, else the space's model as it is, or what ``deployment`` says instead."""
    deployments = settings.deployments
    given = deployments.get(space.name) or deployments.get("")
    return given or (space.name if space.provider == "litellm" else space.model)


def list_price(name: str) -> Listed | None:
    """None where the list has no price of texts by the token, or names no source for it: several of those are wrong."""
    provider, _, model = name.partition("/")
    for entry in (price_list().get(name, {}), price_list().get(model, {})):
        ours = str(entry.get("litellm_provider", "")).startswith(provider)
        per_token, source = entry.get("input_cost_per_token"), entry.get("source")
        if (
            ours
            and entry.get("mode") == "embedding"
            and per_token
            and source
            and "input_cost_per_character" not in entry
        ):
            return Listed(round(per_token * 1e6, 6), source)
    return None


@cache
def price_list() -> Mapping[str, Mapping[str, Any]]:
    """The package's list by model; empty where it is not installed."""
    folder = package_folder("litellm")
    if folder is None or not (folder / PRICES).exists():
        return {}
    found: Mapping[str, Mapping[str, Any]] = json.loads((folder / PRICES).read_bytes())
    return found

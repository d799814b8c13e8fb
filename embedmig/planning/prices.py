"""What embedding costs: dollars from a dated table, or from the configuration."""

from __future__ import annotations

from dataclasses import dataclass

from embedmig.config.settings import EmbedderSettings
from embedmig.types import Space

PRICES_OF = "2026-11-21"
"""When the table was last compared with the models' pages at https://developers.openai.com/api/docs/models."""

USD_PER_MILLION_TOKENS = {
    "openai/text-embedding-3-small": 0.02,
    "openai/text-embedding-3-large": 0.13,
    "openai/text-embedding-ada-002": 0.10,
}
BATCH_SHARE = 0.5
"""Of the list price, for what is sent by the Batch API."""
LOCAL_PROVIDERS = frozenset({"wordllama", "sentence-transformers"})


@dataclass(frozen=True, slots=True)
class Price:
    """USD per million tokens, None where it is unknown, and where that figure comes from."""

    per_million: float | None
    origin: str

    def of(self, tokens: float | None) -> float | None:
        """USD for ``tokens``; None where the price or the count is unknown, never 0."""
        if self.per_million == 0:
            return 0.0
        return None if self.per_million is None or tokens is None else tokens * self.per_million / 1e6


def find_price(space: Space, settings: EmbedderSettings | None = None) -> Price:
    """The configured price of the model, else of its provider, else the table's; unknown where there is none.

    A model behind a ``base_url`` of one's own has no list price, whatever its name.
    """
    if settings is not None and space.name in settings.prices:
        return Price(settings.prices[space.name], "from embedmig.toml")
    if settings is not None and settings.price is not None:
        return Price(settings.price, "from embedmig.toml")
    if ((settings.kind if settings else None) or space.provider) in LOCAL_PROVIDERS:
        return Price(0.0, "runs here")
    if settings is not None and settings.base_url is not None:
        return Price(None, "unknown behind a base_url")
    listed = USD_PER_MILLION_TOKENS.get(space.model)
    return Price(listed, f"list price of {PRICES_OF}" if listed is not None else "unknown model")


def price(space: Space, settings: EmbedderSettings | None = None) -> float | None:
    """USD per million tokens, as :func:`find_price` has it; None where it is not known, never a guess."""
    return find_price(space, settings).per_million


def cost(space: Space, tokens: int | None, settings: EmbedderSettings | None = None) -> float | None:
    """USD for ``tokens``; None where the price or the count is unknown."""
    return find_price(space, settings).of(tokens)

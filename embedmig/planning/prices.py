"""What embedding costs: dollars from a dated table, or from the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from urllib.parse import urlsplit

from embedmig.config.settings import EmbedderSettings
from embedmig.embedders.litellm_models import list_price, name_of
from embedmig.types import Space

OPENAI, GOOGLE, VOYAGE, MISTRAL = (
    "api.openai.com", "generativelanguage.googleapis.com", "api.voyageai.com", "api.mistral.ai",
)  # fmt: skip
OPENAI_PAGE = "https://developers.openai.com/api/docs/models"
GOOGLE_PAGE = "https://developers.googleblog.com/en/gemini-embedding-available-gemini-api/"
GATEWAY_PAGE = "https://vercel.com/ai-gateway/models"
VOYAGE_PAGE, MISTRAL_PAGE = (
    "https://docs.voyageai.com/docs/pricing",
    "https://docs.mistral.ai/models/mistral-embed-23-12",
)


@dataclass(frozen=True, slots=True)
class ListPrice:
    """USD per million tokens, the day on which ``source`` said so, and that page."""

    per_million: float
    seen: str
    source: str


LISTED: Mapping[tuple[str, str], ListPrice] = {
    (OPENAI, "text-embedding-3-small"): ListPrice(0.02, "2026-11-21", OPENAI_PAGE),
    (OPENAI, "text-embedding-3-large"): ListPrice(0.13, "2026-11-21", OPENAI_PAGE),
    (OPENAI, "text-embedding-ada-002"): ListPrice(0.10, "2026-11-21", OPENAI_PAGE),
    (GOOGLE, "gemini-embedding-001"): ListPrice(0.15, "2026-11-26", GOOGLE_PAGE),
    (VOYAGE, "voyage-4-large"): ListPrice(0.12, "2026-11-26", VOYAGE_PAGE),
    (VOYAGE, "voyage-4"): ListPrice(0.06, "2026-11-26", VOYAGE_PAGE),
    (VOYAGE, "voyage-4-lite"): ListPrice(0.02, "2026-11-26", VOYAGE_PAGE),
    (VOYAGE, "voyage-3-large"): ListPrice(0.18, "2026-11-26", GATEWAY_PAGE),
    (VOYAGE, "voyage-3.5"): ListPrice(0.06, "2026-11-26", GATEWAY_PAGE),
    (VOYAGE, "voyage-3.5-lite"): ListPrice(0.02, "2026-11-26", GATEWAY_PAGE),
    (MISTRAL, "mistral-embed"): ListPrice(0.10, "2026-11-26", MISTRAL_PAGE),
}
"""By host and model. The pages of Voyage and Mistral as others quote them with their address (litellm's list of 1.110.2 for both; for Voyage
https://usagepricing.com/blueprint/voyage-ai too); Voyage's third generation as Vercel's gateway, which serves it, has it."""
BATCH_SHARE = 0.5
"""Of the list price, for what is sent by the Batch API."""
LOCAL_PROVIDERS = frozenset({"wordllama", "model2vec", "fastembed", "sentence-transformers"})


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

    The host counts, not the provider's name: a model behind another address has no list price, whatever it is called.
    """
    if settings is not None and space.name in settings.prices:
        return Price(settings.prices[space.name], "from embedmig.toml")
    if settings is not None and settings.price is not None:
        return Price(settings.price, "from embedmig.toml")
    if kind_of(space, settings) in LOCAL_PROVIDERS:
        return Price(0.0, "runs here")
    if kind_of(space, settings) == "litellm":
        return _price_of_litellm(space, settings or EmbedderSettings())
    listed = LISTED.get((host_of(space, settings), space.name))
    if listed is not None:
        return Price(listed.per_million, f"list price of {listed.seen} ({urlsplit(listed.source).hostname})")
    behind = settings is not None and settings.base_url is not None
    return Price(None, "unknown behind a base_url" if behind else "unknown model")


def _price_of_litellm(space: Space, settings: EmbedderSettings) -> Price:
    listed = None if settings.base_url else list_price(name_of(space, settings))
    if listed is None:
        return Price(None, "unknown behind a base_url" if settings.base_url else "not in litellm's list")
    return Price(listed.per_million, f"list of litellm {version('litellm')} ({urlsplit(listed.source).hostname})")


def kind_of(space: Space, settings: EmbedderSettings | None) -> str:
    """The protocol of the space's provider."""
    return (settings.kind if settings else None) or space.provider


def host_of(space: Space, settings: EmbedderSettings | None) -> str:
    """The host that serves the space's model; empty where that is not known."""
    if settings is not None and settings.base_url is not None:
        return urlsplit(settings.base_url).hostname or ""
    return OPENAI if kind_of(space, settings) == "openai" else ""


def price(space: Space, settings: EmbedderSettings | None = None) -> float | None:
    """USD per million tokens, as :func:`find_price` has it; None where it is not known, never a guess."""
    return find_price(space, settings).per_million


def cost(space: Space, tokens: int | None, settings: EmbedderSettings | None = None) -> float | None:
    """USD for ``tokens``; None where the price or the count is unknown."""
    return find_price(space, settings).of(tokens)

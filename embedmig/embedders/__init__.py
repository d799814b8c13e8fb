"""Embedders: one protocol, one provider a file, looked up by the part of ``Space.model`` before the slash."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Protocol, cast, runtime_checkable

from embedmig.config.settings import EmbedderSettings
from embedmig.errors import EmbedderMisconfigured
from embedmig.types import Answer, Limits, Role, Space

__all__ = ["PROBE_TEXT", "Embedder", "EmbedderSettings", "Factory", "create", "providers", "register"]

PROBE_TEXT = "a harmless sentence"
"""Sent to find out whether a model answers at all, and to tell a refused text from a refused configuration."""


@runtime_checkable
class Embedder(Protocol):
    """What makes vectors. It gives the model's raw output; identity (prefix, norm) is the Encoder's business."""

    limits: Limits

    async def embed(self, texts: list[str], role: Role) -> Answer:
        """Raw vectors ``(len(texts), d)`` in the order of ``texts``.

        Raises :class:`~embedmig.errors.InputRefused` where the content is at fault, ``EmbedderMisconfigured`` where
        the configuration is, ``EmbedderUnavailable`` where patience ran out, ``BadAnswer`` where it can't be read.
        """
        ...

    def count_tokens(self, texts: Sequence[str]) -> int | None:
        """Tokens that ``texts`` cost, exactly; None where no tokenizer is at hand."""
        ...

    def weights(self) -> str:
        """``sha256:<hex>`` of the model's files on disk; ``""`` where there are none (APIs)."""
        ...

    def check_version(self) -> None:
        """Raises ``EmbedderMisconfigured`` where the pinned version is verifiably not what is installed."""
        ...

    async def aclose(self) -> None:
        """Closes connections; the embedder is not used afterwards."""
        ...


Factory = Callable[[Space, EmbedderSettings], Embedder]

_MODULES = {
    "fastembed": "embedmig.embedders.fastembed",
    "litellm": "embedmig.embedders.litellm",
    "model2vec": "embedmig.embedders.model2vec",
    "openai": "embedmig.embedders.openai",
    "python": "embedmig.embedders.python",
    "sentence-transformers": "embedmig.embedders.sentence_transformers",
    "wordllama": "embedmig.embedders.wordllama",
}
_REGISTERED: dict[str, Factory] = {}


def register(provider: str, factory: Factory) -> None:
    """Adds a provider, or replaces one, for this process."""
    _REGISTERED[provider] = factory


def providers() -> list[str]:
    """The names that may stand before the slash of a model, sorted."""
    return sorted(_MODULES.keys() | _REGISTERED.keys())


def create(space: Space, settings: EmbedderSettings | None = None) -> Embedder:
    """The embedder of ``space.model``; its module is imported only now, its weights only when they are used.

    Raises :class:`EmbedderMisconfigured` for an unknown provider or impossible settings and
    :class:`~embedmig.errors.MissingExtra` for a library that is not installed.
    """
    settings = settings or EmbedderSettings()
    kind = settings.kind or space.provider
    factory = _REGISTERED.get(space.provider)
    if space.dtype != "float32" and factory is None and kind != "sentence-transformers":
        raise EmbedderMisconfigured(
            f"{space.model}: in what it computes is not ours to choose, the space says {space.dtype}",
            hint="leave dtype out; sentence-transformers is the provider that takes it",
        )
    if factory is None and kind in _MODULES:
        factory = cast(Factory, import_module(_MODULES[kind]).create)
    if factory is None:
        raise EmbedderMisconfigured(
            f"model {space.model!r}: no provider is called {space.provider!r}",
            hint=f"known providers: {', '.join(providers())}; another name needs [embedders.{space.provider}] with its kind",
        )
    return factory(space, settings)

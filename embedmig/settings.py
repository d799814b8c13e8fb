"""A documented import: :class:`EmbedderSettings`, which is part of :mod:`embedmig.config`."""

from __future__ import annotations

from embedmig.config.settings import EmbedderSettings

__all__ = ["EmbedderSettings"]

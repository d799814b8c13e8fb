"""Documented imports: :class:`EmbedderSettings` and :class:`StoreSettings`, which are part of :mod:`embedmig.config`."""

from __future__ import annotations

from embedmig.config.settings import EmbedderSettings, StoreSettings

__all__ = ["EmbedderSettings", "StoreSettings"]

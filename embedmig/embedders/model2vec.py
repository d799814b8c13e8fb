"""model2vec: static embeddings distilled from a transformer, made without one (extra ``model2vec``).

https://github.com/MinishLab/model2vec. A model is found under ``[embedders.model2vec.models]``, or on the hub at the commit that is
its version.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from embedmig.config.settings import EmbedderSettings
from embedmig.embedders.hub import HubModel, files_of
from embedmig.embedders.weights import hash_files, package_folder
from embedmig.errors import EmbedderMisconfigured, MissingExtra
from embedmig.types import Answer, Limits, Role, Space

BATCH_SIZE, CONCURRENCY = 1024, 2

_models: dict[Path, Any] = {}
_loading = threading.Lock()


def create(space: Space, settings: EmbedderSettings) -> Model2Vec:
    """The embedder for ``model2vec/NAME``; raises ``MissingExtra``, ``EmbedderMisconfigured``."""
    return Model2Vec(space, settings)


class Model2Vec(HubModel):
    """Mean of token vectors, by the library; a text without tokens gets a zero vector."""

    owner = "minishlab/"

    def __init__(self, space: Space, settings: EmbedderSettings) -> None:
        if package_folder("model2vec") is None:
            raise MissingExtra("model2vec", "model2vec")
        if space.roles:
            raise EmbedderMisconfigured(f"{space.model} takes no options by role", hint="leave roles out")
        super().__init__(space, settings)
        self.limits = Limits(settings.batch_size or BATCH_SIZE, settings.concurrency or CONCURRENCY)

    def _model(self) -> Any:
        with _loading:  # once a process
            if self._folder not in _models:
                library = import_module("model2vec")
                _models[self._folder] = library.StaticModel.from_pretrained(self._folder, force_download=False)
            return _models[self._folder]

    async def embed(self, texts: list[str], role: Role) -> Answer:
        """What the library gives, ``(n, d)`` float32; tokens as it reads them, and how many texts it cut."""
        return await asyncio.to_thread(self._embed, texts)

    def _embed(self, texts: list[str]) -> Answer:
        model = self._model()
        vectors = np.asarray(model.encode(texts, use_multiprocessing=False), dtype=np.float32)
        tokens = self._tokenized(texts)
        longest = (model.max_length or 0) * model.median_token_length  # letters, to which it cuts before it tokenizes
        cut = sum(bool(one.overflowing) or 0 < longest < len(text) for one, text in zip(tokens, texts, strict=True))
        return Answer(vectors, sum(len(one.ids) for one in tokens), cut)

    def _tokenized(self, texts: Sequence[str]) -> list[Any]:
        found: list[Any] = self._model().tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return found

    def count_tokens(self, texts: Sequence[str]) -> int:
        """Exactly, with what would be cut left out."""
        return sum(len(one.ids) for one in self._tokenized(texts))

    def weights(self) -> str:
        """SHA-256 over the matrix, the tokenizer and the configuration."""
        return hash_files(self._folder, files_of(self._folder))

    def check_version(self) -> None:
        """A folder does not say its version; ``Space.weights`` pins what is in it."""

    async def aclose(self) -> None:
        """Nothing to close: the model stays for the process."""

"""fastembed: transformer models as ONNX, on the CPU or a GPU, without torch (extra ``fastembed``).

https://qdrant.github.io/fastembed. Files on disk only: a model is found under ``[embedders.fastembed.models]`` or in an installed
package; nothing is downloaded.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from embedmig.config.settings import EmbedderSettings
from embedmig.embedders.weights import NOT_WEIGHTS, hash_files, locate, package_folder
from embedmig.errors import EmbedderMisconfigured, MissingExtra
from embedmig.types import Answer, Limits, Role, Space

BATCH_SIZE, CONCURRENCY = 64, 1  # the runtime uses every core for one batch
WEIGHT_FILES = frozenset({".onnx", ".onnx_data", ".json", ".txt"})
POOLINGS = {"pooling_mode_mean_tokens": "MEAN", "pooling_mode_cls_token": "CLS", "pooling_mode_lasttoken": "LAST_TOKEN"}
"""As ``1_Pooling/config.json`` of a sentence-transformers folder says it, and as the library calls it."""

_models: dict[tuple[Path, str], Any] = {}
_loading = threading.Lock()


def create(space: Space, settings: EmbedderSettings) -> FastEmbed:
    """The embedder for ``fastembed/NAME``; raises ``MissingExtra``, ``EmbedderMisconfigured``."""
    return FastEmbed(space, settings)


class FastEmbed:
    """One session of the ONNX runtime, made at its first use."""

    def __init__(self, space: Space, settings: EmbedderSettings) -> None:
        if package_folder("fastembed") is None:
            raise MissingExtra("fastembed", "fastembed")
        if space.roles:
            raise EmbedderMisconfigured(f"{space.model} takes no options by role", hint="leave roles out")
        self._space, self._folder = space, find_folder(space.name, settings)
        self.limits = Limits(settings.batch_size or BATCH_SIZE, settings.concurrency or CONCURRENCY)

    def _model(self) -> Any:
        key = self._folder, self._space.name
        with _loading:  # once a process
            if key not in _models:
                _models[key] = load(self._folder, self._space)
            return _models[key]

    async def embed(self, texts: list[str], role: Role) -> Answer:
        """Raw vectors ``(n, d)`` float32; tokens as the model reads them, and how many texts were cut to fit."""
        return await asyncio.to_thread(self._embed, texts)

    def _embed(self, texts: list[str]) -> Answer:
        vectors = np.array(list(self._model().embed(texts, batch_size=len(texts))), dtype=np.float32)
        read = self._tokenized(texts)
        return Answer(vectors, tokens_in(read), sum(bool(one.overflowing) for one in read))

    def _tokenized(self, texts: Sequence[str]) -> list[Any]:
        return list(self._model().model.tokenize(list(texts))) if texts else []

    def count_tokens(self, texts: Sequence[str]) -> int:
        """Exactly, special tokens included, with what would be cut left out."""
        return tokens_in(self._tokenized(texts))

    def weights(self) -> str:
        """SHA-256 over the graph, its weights, the tokenizer and the configuration in the model's folder."""
        files = (file for file in self._folder.rglob("*") if file.suffix in WEIGHT_FILES and file.is_file())
        return hash_files(self._folder, [file for file in files if file.name not in NOT_WEIGHTS])

    def check_version(self) -> None:
        """A folder does not say its version; ``Space.weights`` pins what is in it."""

    async def aclose(self) -> None:
        """Nothing to close: the model stays for the process."""


def find_folder(name: str, settings: EmbedderSettings) -> Path:
    """Where the model's files are; raises :class:`EmbedderMisconfigured`."""
    if where := settings.models.get(name):
        return locate(where)
    raise EmbedderMisconfigured(
        f"fastembed/{name}: where its files are is not known, and nothing is downloaded",
        hint=f'[embedders.fastembed.models] "{name}" = "/path/to/its/folder", with model.onnx and tokenizer.json in it',
    )


def load(folder: Path, space: Space) -> Any:
    """The model of a folder. One that the library does not know by its name is pooled as the folder says; it does not normalize."""
    library: Any = import_module("fastembed")
    if space.name.lower() not in {one["model"].lower() for one in library.TextEmbedding.list_supported_models()}:
        described: Any = import_module("fastembed.common.model_description")
        library.TextEmbedding.add_custom_model(
            model=space.name,
            pooling=described.PoolingType[pooling_of(folder)],
            normalization=False,
            sources=described.ModelSource(hf=space.name),
            dim=space.dimensions,
            model_file=graph_of(folder),
        )
    return library.TextEmbedding(space.name, specific_model_path=str(folder))


def graph_of(folder: Path) -> str:
    """The ONNX file, relative to the folder."""
    for name in ("model.onnx", "onnx/model.onnx"):
        if (folder / name).is_file():
            return name
    raise EmbedderMisconfigured(f"{folder}: there is no model.onnx", hint="nor onnx/model.onnx: export the model first")


def pooling_of(folder: Path) -> str:
    """How token vectors become one, as the library calls it."""
    file = folder / "1_Pooling" / "config.json"
    known = json.loads(file.read_bytes()) if file.is_file() else {}
    chosen = [ours for theirs, ours in POOLINGS.items() if known.get(theirs)]
    if len(chosen) != 1:
        raise EmbedderMisconfigured(
            f"{folder}: how its token vectors become one is not said",
            hint="1_Pooling/config.json of sentence-transformers says it",
        )
    return chosen[0]


def tokens_in(encodings: Sequence[Any]) -> int:
    """Without padding."""
    return sum(sum(one.attention_mask) for one in encodings)

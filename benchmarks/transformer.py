"""Tokens a second of a transformer through embedmig, over those of the same model called directly on presorted input.

Side by side, in turn, in one run: the library's own ``encode`` on texts that are sorted by length already, and
embedmig's encoder on the same texts in no order, in windows, as many in flight as the pipeline has. Both count the same
tokens: those that the model reads. ``--upgrade`` adds the whole backfill, with PostgreSQL, as a third.

    python -m benchmarks.transformer --device cuda --dtype float16
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from importlib import metadata
from random import Random
from typing import Any

import numpy as np

from benchmarks import efficiency
from benchmarks.place import dictionary, docstrings, opened
from embedmig.config.settings import EmbedderSettings
from embedmig.embedders.encoder import Encoder
from embedmig.embedders.sentence_transformers import SentenceTransformers, create
from embedmig.types import Space

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
DIRECT_BATCHES = (32, 128, 512)
"""Texts a forward of the direct call; the best of them is what embedmig is held to."""


@dataclass(frozen=True)
class Pair:
    """Tokens a second of the model alone, with its best batch size, and through embedmig."""

    direct: float
    batch: int
    through: float

    @property
    def ratio(self) -> float:
        """1.0: embedmig never keeps the model waiting."""
        return self.through / self.direct


def measure(options: argparse.Namespace) -> list[Pair]:
    """Pairs, after one that is not counted; the direct call has its best batch size, found in that one."""
    encoder, embedder, texts = prepare(options)
    model = embedder._copies().first
    tokens = embedder.count_tokens(texts)
    in_order = sorted(texts, key=len, reverse=True)
    few = in_order[:: max(1, len(in_order) // 64)]
    speeds = {
        size: embedder.count_tokens(few) / seconds(lambda size=size: direct(model, few, size))
        for size in DIRECT_BATCHES
    }  # type: ignore[misc]
    batch = max(speeds, key=lambda size: speeds[size])
    asyncio.run(efficiency.embed_all(encoder, few))
    pairs = []
    for number in range(options.repeats):
        calls = [lambda: direct(model, in_order, batch), lambda: asyncio.run(efficiency.embed_all(encoder, texts))]
        order = calls if number % 2 == 0 else calls[::-1]  # neither has the warmer machine
        took = {call: seconds(call) for call in order}
        pairs.append(Pair(tokens / took[calls[0]], batch, tokens / took[calls[1]]))
        print(f"pair {number + 1} of {options.repeats}: {pairs[-1].ratio:.2f}", file=sys.stderr, flush=True)
    return pairs


def prepare(options: argparse.Namespace) -> tuple[Encoder, SentenceTransformers, list[str]]:
    """The encoder, its embedder, and the texts in no order."""
    space = Space("docs", MODEL, "1", 384, dtype=options.dtype)
    settings = EmbedderSettings(device=tuple(options.device), tokens_per_batch=options.tokens_per_batch)
    embedder = create(space, settings)
    found = dictionary(options.rows) if options.corpus == "dictionary" else docstrings(options.rows)
    if found is None:
        raise SystemExit("the dictionary is not here; --corpus docstrings is on every machine")
    texts = found.texts
    Random(1).shuffle(texts)
    return Encoder(space, embedder), embedder, texts


def direct(model: Any, in_order: list[str], batch: int) -> np.ndarray[Any, Any]:
    """What a careful engineer would write: the library's own loop, on texts of like length."""
    return np.asarray(model.encode(in_order, batch_size=batch, show_progress_bar=False))


def seconds(call: Any) -> float:
    """How long it takes."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def machine(device: str) -> dict[str, object]:
    """What it was measured on."""
    import torch

    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else f"{torch.get_num_threads()} threads"
    packages = ("torch", "sentence-transformers", "transformers", "tokenizers")
    return {"when": time.strftime("%Y-%m-%d"), "device": name, "system": f"{platform.system()} {platform.machine()}",
            "packages": {package: metadata.version(package) for package in packages}}  # fmt: skip


def compare_whole(options: argparse.Namespace) -> list[efficiency.Run]:
    """Rows a second of a backfill into PostgreSQL over those of the encoder alone, in turn."""
    space = Space("docs", MODEL, "1", 384, dtype=options.dtype)
    config = f"\n[embedders.sentence-transformers]\ndevice = {json.dumps(options.device)}\n"
    found = dictionary(options.rows) if options.corpus == "dictionary" else docstrings(options.rows)
    assert found is not None
    with opened() as place:
        place.load(found)
        return efficiency.measure(place, found, efficiency.Setting("transformer", space, config), options.repeats)


def main() -> None:
    """Measures and prints: a line of Markdown, and JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", nargs="+", default=["cpu"], help="cpu, cuda, or several: cuda:0 cuda:1")
    parser.add_argument("--dtype", default="float32", choices=["float32", "float16", "bfloat16"])
    parser.add_argument("--corpus", default="docstrings", choices=["docstrings", "dictionary"])
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--tokens-per-batch", type=int)
    parser.add_argument("--upgrade", action="store_true", help="the whole backfill too")
    options = parser.parse_args()
    pairs = measure(options)
    ratios = [pair.ratio for pair in pairs]
    speeds = [f"{statistics.median(values):,.0f}" for values in ([p.through for p in pairs], [p.direct for p in pairs])]
    under = f"{options.rows:,} {options.corpus}, {' '.join(options.device)}, {options.dtype}, direct with batches of {pairs[0].batch}"
    figures = [f"{value:.2f}" for value in (min(ratios), statistics.median(ratios), max(ratios))]
    print(f"| {under} | {' | '.join(figures)} | {speeds[0]} | {speeds[1]} |")
    found: dict[str, Any] = {"machine": machine(options.device[0]), "pairs": [asdict(pair) | {"ratio": pair.ratio} for pair in pairs]}  # fmt: skip
    if options.upgrade:
        runs = compare_whole(options)
        found["upgrade"] = [asdict(run) | {"ratio": run.ratio} for run in runs]
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()

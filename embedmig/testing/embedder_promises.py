"""The suite that every embedder has to pass: each function is a promise, and raises AssertionError where it is broken."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np

from embedmig.embedders.encoder import Encoder

TEXTS = [
    "A migration moves vectors from one model to another.",
    "Short.",
    "The gate opens when the data says so, not when the calendar does. " * 6,
    "Größe, naïve café: accents and ligatures",
    "向量数据库的迁移",
    "émoji 🚀🧭 and a zero-width\u200bspace",
    "tabs\tand\nnewlines\r\nand \x01 a control character",
    "Short.",
]
"""Texts that embedders have stumbled over; the last is the second one again."""


async def gives_one_finite_vector_per_text(encoder: Encoder) -> None:
    """Shape ``(n, dimensions)``, float32, finite, none rejected, for text in any script."""
    encoded = await encoder.encode(TEXTS)
    assert encoded.vectors.shape == (len(TEXTS), encoder.space.dimensions)
    assert encoded.vectors.dtype == np.float32
    assert encoded.vectors.flags.c_contiguous
    assert np.isfinite(encoded.vectors).all()
    assert not encoded.rejected


async def gives_no_vectors_for_no_texts(encoder: Encoder) -> None:
    """Shape ``(0, dimensions)``."""
    assert (await encoder.encode([])).vectors.shape == (0, encoder.space.dimensions)


async def keeps_the_order(encoder: Encoder) -> None:
    """Reversed texts give reversed vectors; equal texts equal ones; others differ."""
    forth = (await encoder.encode(TEXTS)).vectors
    back = (await encoder.encode(TEXTS[::-1])).vectors
    assert_same(forth, back[::-1], encoder)
    assert_same(forth[1], forth[-1], encoder)
    assert not np.allclose(forth[0], forth[1], atol=1e-3)


async def is_deterministic(encoder: Encoder) -> None:
    """The same texts give the same vectors."""
    assert_same((await encoder.encode(TEXTS)).vectors, (await encoder.encode(TEXTS)).vectors, encoder)


async def does_not_depend_on_the_batch(encoder: Encoder) -> None:
    """A text alone gets the vector that it gets among others."""
    together = (await encoder.encode(TEXTS)).vectors
    alone = [(await encoder.encode([text])).vectors for text in TEXTS]
    assert_same(together, np.concatenate(alone), encoder)


async def gives_unit_vectors_where_asked(encoder: Encoder) -> None:
    """Norm 1 under ``normalize="l2"``."""
    if encoder.space.normalize == "l2":
        norms = np.linalg.norm((await encoder.encode(TEXTS)).vectors.astype(np.float64), axis=1)
        assert np.allclose(norms, 1.0, atol=1e-5)


async def rejects_an_empty_text_and_embeds_the_rest(encoder: Encoder) -> None:
    """An empty text has no vector, and takes none from its neighbours."""
    encoded = await encoder.encode([TEXTS[0], "", TEXTS[1]])
    assert list(encoded.rejected) == [1]
    assert_same(encoded.vectors[[0, 2]], (await encoder.encode(TEXTS[:2])).vectors, encoder)


async def takes_more_texts_than_a_request_holds(encoder: Encoder) -> None:
    """Splitting leaves no seam."""
    count = encoder.limits.batch_size + 3
    texts = [f"text number {number}" for number in range(count)]
    encoded = await encoder.encode(texts)
    assert encoded.vectors.shape == (count, encoder.space.dimensions)
    assert_same(encoded.vectors[-3:], (await encoder.encode(texts[-3:])).vectors, encoder)


async def counts_tokens(encoder: Encoder) -> None:
    """More than nothing where it counts, and the same as for the texts one by one."""
    whole = encoder.embedder.count_tokens(TEXTS)
    if whole is not None:
        assert whole == sum(encoder.embedder.count_tokens([text]) or 0 for text in TEXTS) > 0
        assert encoder.embedder.count_tokens([]) == 0


def assert_same(one: Any, other: Any, encoder: Encoder) -> None:
    """Equal to 1e-5, relative to the longest vector; half precision on a GPU gets 5e-3."""
    half = getattr(encoder.embedder, "half_precision", False)
    scale = max(1.0, float(np.abs(one).max()))
    assert np.allclose(one, other, rtol=0, atol=(5e-3 if half else 1e-5) * scale)


Promise = Callable[[Encoder], Awaitable[None]]
EMBEDDER_PROMISES: tuple[Promise, ...] = (
    gives_one_finite_vector_per_text,
    gives_no_vectors_for_no_texts,
    keeps_the_order,
    is_deterministic,
    does_not_depend_on_the_batch,
    gives_unit_vectors_where_asked,
    rejects_an_empty_text_and_embeds_the_rest,
    takes_more_texts_than_a_request_holds,
    counts_tokens,
)

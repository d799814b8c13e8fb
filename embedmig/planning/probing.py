"""How fast the real model is: some real texts, embedded as a run would embed them, and nothing kept of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from embedmig.embedders.blocking import wait_for
from embedmig.embedders.encoder import Encoder, together
from embedmig.intervals import relative_error
from embedmig.planning.tokens import Weighed, inputs_of
from embedmig.types import Limits

WAVES = 4  # requests one after the other in each place: their spread is what the interval is made of
TEXTS = (256, 4096)
SECONDS = 30.0  # no request is begun later than this

PATIENCE = 30.0  # seconds that a probe waits for an API that does not answer


@dataclass(frozen=True, slots=True)
class Probe:
    """What was asked of the model and how long it took. ``error`` is half of the 95 % interval of the rate, as a share
    of it; None where one request can't tell. ``tokens`` is None where the provider doesn't say.
    """

    rows: int
    texts: int
    requests: int
    in_flight: int
    seconds: float
    rows_per_second: float
    error: float | None
    tokens: int | None
    refusals: int
    weighed: tuple[Weighed, ...]


@dataclass(frozen=True, slots=True)
class Timed:
    """One request that came back: the rows in it, and when it began and ended."""

    rows: int
    weighed: Weighed
    began: float
    ended: float


def probe_size(limits: Limits) -> int:
    """How many texts a probe wants: full requests in every place, a few of them, within reason."""
    return min(TEXTS[1], max(TEXTS[0], WAVES * limits.concurrency * limits.batch_size))


def probe(encoder: Encoder, texts: Sequence[str], *, clock: Callable[[], float] = time.monotonic) -> Probe:
    """Embeds the texts of some rows, as many requests at once as a run would send. Closes the embedder.

    One harmless text goes first, so that neither a model's loading nor a wrong key is taken for its speed. Raises
    what the model raises.
    """
    return wait_for(_probe(encoder, texts, clock))


async def _probe(encoder: Encoder, texts: Sequence[str], clock: Callable[[], float]) -> Probe:
    try:
        await encoder.probe()
        began = clock()
        asked = [_ask(encoder, batch, clock, began) for batch in batches(encoder, texts)]
        timed = [one for one in await together(asked, encoder.limits.concurrency) if one]
        return measured(timed, encoder)
    finally:
        await encoder.embedder.aclose()


async def _ask(
    encoder: Encoder, batch: list[tuple[str, list[str]]], clock: Callable[[], float], start: float
) -> Timed | None:
    began = clock()
    if began - start > SECONDS:
        return None
    inputs = [piece for _, pieces in batch for piece in pieces]
    prefix = len(encoder.space.document_prefix)  # the encoder puts it there itself
    answer = await encoder.encode([piece[prefix:] for piece in inputs], "document")
    size = Weighed(sum(len(text) for text, _ in batch), sum(map(len, inputs)), answer.tokens, len(inputs), len(batch))
    return Timed(len(batch), size, began, clock())


def batches(encoder: Encoder, texts: Sequence[str]) -> list[list[tuple[str, list[str]]]]:
    """Whole rows, each with what the model gets for it, in batches of the run's size."""
    found: list[list[tuple[str, list[str]]]] = []
    room = 0
    for text in texts:
        pieces = inputs_of(text, encoder.space)
        if len(pieces) > room:
            found.append([])
            room = encoder.limits.batch_size
        found[-1].append((text, pieces))
        room -= len(pieces)
    return found


def measured(timed: Sequence[Timed], encoder: Encoder) -> Probe:
    """From the requests' times to a rate with its interval."""
    seconds = max((one.ended for one in timed), default=0.0) - min((one.began for one in timed), default=0.0)
    rows, sizes = sum(one.rows for one in timed), tuple(one.weighed for one in timed)
    tokens = [size.tokens for size in sizes if size.tokens is not None]
    pace = encoder.pace
    return Probe(
        rows, sum(size.vectors for size in sizes), len(timed), min(len(timed), encoder.limits.concurrency), seconds,
        rows / seconds if seconds else 0.0, relative_error([(one.ended - one.began) / one.rows for one in timed]),
        sum(tokens) if len(tokens) == len(sizes) else None, pace.refusals if pace else 0, sizes,
    )  # fmt: skip

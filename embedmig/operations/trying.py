"""One candidate of ``try``: what it is worth on a sample, and what the whole collection would take with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import psycopg

from embedmig.database import Connection, first_line
from embedmig.embedders import PROBE_TEXT
from embedmig.embedders.blocking import wait_for
from embedmig.embedders.encoder import Encoder
from embedmig.embedders.matryoshka import cut_warning
from embedmig.errors import AnswerIsNo, UsageError
from embedmig.lazy import Later
from embedmig.operations.base import Context
from embedmig.planning.prices import find_price
from embedmig.planning.probing import PATIENCE
from embedmig.planning.tokens import CHARACTERS_PER_TOKEN, inputs_of
from embedmig.quality.embedding_cache import EmbeddingCache, identity
from embedmig.quality.golden import GoldenSet
from embedmig.quality.measures import Scores, latencies
from embedmig.quality.trial import Embedded, Trial, as_stored, judged, measured, rank, variants
from embedmig.source.chunking import pieces_of
from embedmig.source.rows import Key
from embedmig.source.table import SourceCounts
from embedmig.stores import try_index
from embedmig.stores.index_sizes import index_bytes, table_bytes
from embedmig.types import MAX_INDEX_DIMENSIONS, Space

if TYPE_CHECKING:
    import numpy as np
else:
    np = Later("numpy")

EF_SEARCH = (40, 100, 200)
SEARCHED = 50  # queries through the index
M = 16  # of the graph whose size is told: what revision writes


@dataclass(frozen=True, slots=True)
class Sample:
    """Rows of the collection with their texts, what is asked of them, and how large the whole is."""

    rows: Sequence[tuple[Key, str]]
    asked: GoldenSet
    counted: SourceCounts
    k: int
    max_cost: float | None = None  # USD that may be spent on one model, beside what the configuration says


@dataclass(frozen=True, slots=True)
class Live:
    """What the alias shows, on the sample: each question's rows, and its scores where it is judged."""

    version: str
    ranked: Sequence[Sequence[Key]]
    scores: Mapping[str, Scores]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A candidate and the sample in its terms; ``ranked`` are its further forms with each question's rows, ``whole`` what the whole
    collection would take.
    """

    found: Embedded
    ranked: Sequence[tuple[Space, Sequence[Sequence[Key]]]]
    whole: Trial


def embed_candidate(
    context: Context, cache: EmbeddingCache, wanted: Space, drawn: Sample, notices: list[str]
) -> Candidate:
    """Has the sample embedded. Raises what its model raises."""
    space = _with_dimensions(context, wanted, notices)
    found, model = _embedded(context, cache, space, drawn)
    ranked = [(one, rank(found, one, drawn.k, len(drawn.asked.questions))) for one in variants(space)]
    return Candidate(found, ranked, _whole(context, cache, space, model, drawn))


def measure_candidate(
    conn: Connection, candidate: Candidate, drawn: Sample, live: Live | None, notices: list[str]
) -> Iterator[Trial]:
    """The candidate's rows of the table."""
    whole, found = candidate.whole, candidate.found
    for one, ranked in candidate.ranked:
        scores = judged(drawn.asked, ranked, drawn.k)
        trial = replace(
            whole, dimensions=one.dimensions, storage=one.storage, cut=one.cut, version=one.tag, warning=cut_warning(one),
            **_disk(one, drawn, len(found.documents)), **_index(conn, one, found, drawn.k, notices),
        )  # fmt: skip
        yield measured(trial, scores, live.scores if live else None, ranked, live.ranked if live else None, drawn.k)


def _encoder(context: Context, space: Space) -> Encoder:
    return context.encoder(space, patience=PATIENCE)


def _with_dimensions(context: Context, wanted: Space, notices: list[str]) -> Space:
    """The space with the dimensions that the model gives, or cut to those that were asked for where it gives more."""
    encoder = _encoder(context, wanted)
    encoder.embedder.check_version()
    given = wait_for(_width(encoder))
    if wanted.dimensions == 1 and wanted.cut:
        return replace(wanted, dimensions=given, cut=False)
    if given > wanted.dimensions and not wanted.cut:
        notices.append(
            f"{wanted.model} gives more than {wanted.dimensions} dimensions: cut here, cut=True in the script"
        )
        return replace(wanted, cut=True)
    return wanted


async def _width(encoder: Encoder) -> int:
    """Dimensions of what the model gives, before anything is cut."""
    try:
        return int((await encoder.embedder.embed([PROBE_TEXT], "document")).vectors.shape[1])
    finally:
        await encoder.embedder.aclose()


def _embedded(context: Context, cache: EmbeddingCache, space: Space, drawn: Sample) -> tuple[Embedded, str]:
    """The sample in the model's terms, and the model's identity. Raises :class:`AnswerIsNo` where that could pass ``max_cost``."""
    settings = context.config.settings(space.provider)
    texts, rows = [], []
    for key, text in drawn.rows:
        for piece in pieces_of(text, space.chunk):
            texts.append(text[piece.start : piece.end])
            rows.append(key)
    encoder, queries = _encoder(context, space), _encoder(context, space.query_side)
    model = identity(space, encoder.embedder.weights(), settings.base_url or "")
    cache.check(model)
    missing = sum(map(len, cache.missing(model, "document", texts)))
    most = find_price(space, settings).of(missing / 2)  # two characters a token: dearer than any real text
    ceiling = min((one for one in (settings.max_cost, drawn.max_cost) if one is not None), default=None)
    if ceiling is not None and most is not None and most > ceiling:
        raise AnswerIsNo(
            f"embedding the sample could cost ${most:.2f}, more than max_cost (${ceiling:g})",
            hint="--sample takes fewer rows",
        )
    documents = cache.documents(encoder, model, texts)
    cache.keep_rows(model, space.collection, {key for key, _ in drawn.rows})
    found = cache.queries(queries, model, [question.query for question in drawn.asked.questions])
    if not documents:
        raise UsageError(f"{space.model} gave a vector for none of the sample's texts")
    return Embedded(np.stack(list(documents.values())), [rows[place] for place in documents], found), model


def _whole(context: Context, cache: EmbeddingCache, space: Space, model: str, drawn: Sample) -> Trial:
    """What the whole collection would take with this model, at any size."""
    counted, settings = drawn.counted, context.config.settings(space.provider)
    sent = sum(len(piece) for _, text in drawn.rows for piece in inputs_of(text, space))
    characters = counted.characters * sent / max(1, sum(len(text) for _, text in drawn.rows))
    speed = cache.speed(model)
    tokens, basis = round(characters / CHARACTERS_PER_TOKEN), "characters"
    if speed and speed.tokens:
        tokens, basis = round(characters * speed.tokens / max(1, speed.characters)), "sample"
    price = find_price(space, settings)
    vectors = sum(len(pieces_of(text, space.chunk)) for _, text in drawn.rows) / len(drawn.rows)
    rate = speed.texts / vectors / speed.seconds if speed and speed.seconds else None
    return Trial(
        f"{space.model}@{space.version}", space.dimensions, space.storage, space.cut, tokens=tokens, tokens_basis=basis,
        cost=price.of(tokens), price_from=price.origin, rows_per_second=rate, seconds=counted.eligible / rate if rate else None,
        model_ms=latencies(cache.latencies(model)),
    )  # fmt: skip


def _disk(space: Space, drawn: Sample, vectors: int) -> dict[str, Any]:
    """Table and index of the whole collection, in PostgreSQL."""
    rows = round(drawn.counted.eligible * vectors / len(drawn.rows))
    indexed = space.dimensions <= MAX_INDEX_DIMENSIONS[space.storage]
    return {
        "table_bytes": table_bytes(rows, space.dimensions, space.storage),
        "index_bytes": index_bytes(rows, space.dimensions, space.storage, M) if indexed else None,
    }


def _index(conn: Connection, space: Space, found: Embedded, k: int, notices: list[str]) -> dict[str, Any]:
    """What an index over the sample finds, and how long its searches take; nothing where none can be made here."""
    asked = [as_stored(vector[None, :], space)[0] for vector in list(found.queries.values())[:SEARCHED]]
    try:
        tried = try_index(conn, space, as_stored(found.documents, space), np.array(asked), k, EF_SEARCH)
    except psycopg.Error as error:
        said = f"an index could not be tried in a temporary table: {first_line(error)}"
        notices.extend([said] if said not in notices else [])
        return {}
    if tried is None:
        return {}
    return {
        "index_recall": {str(ef): share for ef, share in tried.recall.items()},
        "search_ms": latencies(tried.milliseconds),
    }

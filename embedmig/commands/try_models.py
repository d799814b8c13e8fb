"""try: which model, at which size, for what price, on a sample of the collection's own texts. Changes nothing in the database."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import yaml

from embedmig.commands.plan import PATIENCE
from embedmig.commands.project import Project, ProjectLike, opened
from embedmig.database import Connection, first_line
from embedmig.database.ledger import ledger_exists
from embedmig.embedders import PROBE_TEXT
from embedmig.embedders.blocking import wait_for
from embedmig.embedders.encoder import Encoded, Encoder, WrongDimension
from embedmig.embedders.matryoshka import cut_warning
from embedmig.errors import AnswerIsNo, EmbedmigError, UsageError
from embedmig.formatting import plural
from embedmig.lazy import Later
from embedmig.operations.base import Context
from embedmig.operations.evaluating import check_k, default_set
from embedmig.planning.prices import find_price
from embedmig.planning.tokens import CHARACTERS_PER_TOKEN, inputs_of
from embedmig.quality import golden
from embedmig.quality.answers import answer, encode, without_unknown
from embedmig.quality.embedding_cache import EmbeddingCache, identity
from embedmig.quality.golden import GoldenSet
from embedmig.quality.measures import Scores, latencies, summary
from embedmig.quality.trial import Embedded, Trial, as_stored, judged, measured, rank, variants
from embedmig.source import count_rows
from embedmig.source.chunking import pieces_of
from embedmig.source.rows import Key
from embedmig.source.sampling import draw_rows, named_rows
from embedmig.source.table import SourceCounts
from embedmig.stores import try_index
from embedmig.stores.index_sizes import index_bytes, table_bytes
from embedmig.stores.search import Ranker, Resolved, resolve_space
from embedmig.types import MAX_INDEX_DIMENSIONS, Space

if TYPE_CHECKING:
    import numpy as np
else:
    np = Later("numpy")

MOST = 20_000  # rows of which vectors are held in memory, and which the live version ranks for each question
CANDIDATE = re.compile(r"(?P<model>[A-Za-z0-9_-]+/\S+)@(?P<version>[A-Za-z0-9._+-]+)(?:/(?P<dimensions>\d+))?")
EF_SEARCH = (40, 100, 200)
SEARCHED = 50  # queries through the index
M = 16  # of the graph whose size is told: what revision writes


@dataclass(frozen=True, slots=True)
class TrialResult:
    """What ``try`` measured. ``sample`` rows of ``rows``, ``judged_rows`` of them because the golden set names them; ``live`` is
    the version that candidates are compared with, and ``live_scores`` its scores on the same sample.
    """

    collection: str
    rows: int
    sample: int
    judged_rows: int
    queries: int
    golden: str
    k: int
    live: str | None
    live_scores: dict[str, dict[str, float]]
    trials: list[Trial]
    notices: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Sample:
    """Rows of the collection with their texts, what is asked of them, and how large the whole is."""

    rows: Sequence[tuple[Key, str]]
    asked: GoldenSet
    counted: SourceCounts
    k: int


@dataclass(frozen=True, slots=True)
class Live:
    """What the alias shows, on the sample: each question's rows, and its scores where it is judged."""

    version: str
    ranked: Sequence[Sequence[Key]]
    scores: Mapping[str, Scores]


def try_models(
    project: ProjectLike,
    collection: str,
    candidates: Sequence[str | Mapping[str, Any]],
    *,
    sample: int = 2000,
    golden_set: Path | str | None = None,
    queries: Path | str | None = None,
    k: int = 10,
    seed: int = 0,
) -> TrialResult:
    """Measures models on a sample that holds every judged row: quality, cost, time, latency, disk. Calls the models; what they
    give is kept in ``.embedmig/embeddings.sqlite``, so that a second look calls none.

    A candidate is ``PROVIDER/MODEL@VERSION[/DIMENSIONS]``, or the fields of a :class:`Space`. One that fails has an ``error``.
    Raises :class:`UsageError` for what can't be asked, and where every candidate fails what the first one's model raises.
    """
    project = opened(project)
    check_k(k)
    spaces = [_space(project, collection, one) for one in candidates]
    if not spaces:
        raise UsageError("no candidate is given", hint="--candidate PROVIDER/MODEL@VERSION, or --candidates FILE.yaml")
    if not 1 <= sample <= MOST:
        raise UsageError(f"a sample of {sample:,} is not possible", hint=f"--sample goes from 1 to {MOST:,}")
    asked = _asked(project, collection, golden_set, queries)
    with project.looking() as (context, conn), closing(EmbeddingCache(_cache(project))) as cache:
        drawn, notices, named = _draw(context, conn, collection, asked, sample, seed, k)
        live = _live(context, conn, collection, drawn, notices)
        trials: list[Trial] = []
        failed: list[EmbedmigError] = []
        for wanted in spaces:
            try:
                trials += _candidate(context, conn, cache, wanted, drawn, live, notices)
            except EmbedmigError as error:
                failed.append(error)
                width = 0 if wanted.dimensions == 1 else wanted.dimensions
                name = f"{wanted.model}@{wanted.version}"
                trials.append(Trial(name, width, wanted.storage, wanted.cut, error=error.message))
    if len(failed) == len(spaces):
        raise failed[0]
    return TrialResult(
        collection, drawn.counted.eligible, len(drawn.rows), named, len(drawn.asked.questions), asked.name, k,
        live.version if live else None, {name: summary(values) for name, values in (live.scores if live else {}).items()},
        trials, _said(drawn, live) + notices,
    )  # fmt: skip


def read_candidates(path: Path) -> list[str | dict[str, Any]]:
    """A YAML list of candidates: strings, or the fields of a :class:`Space`. Raises :class:`UsageError`."""
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"{path}: can't be read: {first_line(error)}") from error
    if not isinstance(found, list) or not all(isinstance(one, str | dict) for one in found):
        raise UsageError(f"{path}: is not a list of candidates", hint="- wordllama/l2-supercat@0.4/256")
    return found


# --- what is asked of what ----------------------------------------------------------------------------------------


def _space(project: Project, collection: str, given: str | Mapping[str, Any]) -> Space:
    """The candidate; dimensions 1 and ``cut`` where none are given, until the model has said how many it gives."""
    chunk = project.config.collection(collection).chunk
    if isinstance(given, str):
        found = CANDIDATE.fullmatch(given)
        if found is None:
            raise UsageError(
                f"candidate {given!r} is not PROVIDER/MODEL@VERSION[/DIMENSIONS]",
                hint="for example --candidate wordllama/l2-supercat@0.4/256",
            )
        given = {name: value for name, value in found.groupdict().items() if value}
    values = {"chunk": chunk} | dict(given)
    if unknown := values.keys() - {one.name for one in fields(Space)} | values.keys() & {"collection", "store"}:
        raise UsageError(f"a candidate has no {', '.join(sorted(unknown))}", hint="its keys are the fields of Space")
    if not values.get("model") or not values.get("version"):
        raise UsageError("a candidate has no model or no version", hint="model: PROVIDER/MODEL, version: what pins it")
    if "dimensions" not in values and values.get("normalize", "l2") != "l2":
        raise UsageError(
            f"candidate {values['model']}: vectors that are not normalized need their dimensions", hint="dimensions: N"
        )
    values |= {"dimensions": int(values["dimensions"])} if "dimensions" in values else {"dimensions": 1, "cut": True}
    return Space(collection=collection, **values)


def _asked(project: Project, collection: str, golden_set: Path | str | None, queries: Path | str | None) -> GoldenSet:
    if golden_set and queries:
        raise UsageError("--golden and --queries exclude each other", hint="a golden set holds queries too")
    if queries:
        return replace(golden.read(Path(queries), judged=False), name=Path(queries).name)
    return golden.read(Path(golden_set or default_set(project.config, collection)))


def _cache(project: Project) -> Path:
    return project.config.data_dir / "embeddings.sqlite"


def _draw(
    context: Context, conn: Connection, collection: str, asked: GoldenSet, size: int, seed: int, k: int
) -> tuple[Sample, list[str], int]:
    """Every judged row, and others at random until there are ``size``."""
    source = context.source(conn, collection)
    notices: list[str] = []
    if asked.judged:
        asked, notices = without_unknown(conn, source, asked)
    named = dict(named_rows(conn, source, {key for one in asked.questions for key in one.relevant}))
    rows = dict(named)
    for key, text in draw_rows(conn, source, size, seed):
        if len(rows) >= size:
            break
        rows.setdefault(key, text)
    if not rows:
        raise UsageError(f"{collection!r} has no row with text to draw from")
    return Sample(list(rows.items()), asked, count_rows(conn, source), k), notices, len(named)


def _said(drawn: Sample, live: Live | None) -> list[str]:
    """What the figures can't show."""
    found = []
    if len(drawn.rows) < drawn.counted.eligible:
        found.append(
            f"measured among {len(drawn.rows):,} of {plural(drawn.counted.eligible, 'row')}: with fewer rows to confuse, every model "
            "scores higher than it will on all of them; compare the candidates with each other, and the winner by eval"
        )
    if not drawn.asked.judged:
        beside = "overlap shows how much changes" if live else "there is nothing to compare with"
        found.append(f"without judgements nobody can say which is better: {beside}; --golden FILE measures that")
    return found


# --- the version that is live -------------------------------------------------------------------------------------


def _live(context: Context, conn: Connection, collection: str, drawn: Sample, notices: list[str]) -> Live | None:
    """The version that the alias shows, by the vectors that it has; None where there is none that can be asked."""
    if not ledger_exists(conn, context.database.schema):
        return None
    record = next((one for one in context.registry.spaces(conn, collection) if one.state == "active"), None)
    if record is None:
        return None
    try:
        manifest = context.manifest(conn, record)
        resolved = resolve_space(conn, manifest, context.config.settings(record.space.query_side.provider))
        encoded = encode(resolved.encoder, [question.query for question in drawn.asked.questions])
        ranked = _ranked(conn, Ranker(manifest, resolved.shown), resolved, encoded, drawn)
    except EmbedmigError as error:
        notices.append(f"{record.version}, which is live, could not be asked: {error.message}")
        return None
    return Live(record.version, ranked, judged(drawn.asked, ranked, drawn.k))


def _ranked(conn: Connection, ranker: Ranker, resolved: Resolved, encoded: Encoded, drawn: Sample) -> list[list[Key]]:
    """For each question the nearest rows of the sample, every vector compared."""
    if len(drawn.rows) == drawn.counted.eligible:
        return answer(conn, resolved, encoded, drawn.k, exact=True).keys
    keys = [key for key, _ in drawn.rows]
    return [
        [] if place in encoded.rejected
        else [hit.key_text for hit in ranker.rank(conn, keys, vector.tolist())[: drawn.k]]
        for place, vector in enumerate(encoded.vectors)
    ]  # fmt: skip


# --- a candidate --------------------------------------------------------------------------------------------------


def _candidate(
    context: Context, conn: Connection, cache: EmbeddingCache, wanted: Space, drawn: Sample, live: Live | None, notices: list[str]
) -> Iterator[Trial]:  # fmt: skip
    """The candidate's rows of the table. Raises what its model raises."""
    space = _with_dimensions(context, wanted, notices)
    found, model = _embedded(context, cache, space, drawn)
    whole = _whole(context, cache, space, model, drawn)
    for one in variants(space):
        ranked = rank(found, one, drawn.k, len(drawn.asked.questions))
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
    if wanted.dimensions == 1 and wanted.cut:
        encoder = _encoder(context, wanted)
        encoder.embedder.check_version()
        return replace(wanted, dimensions=wait_for(_raw(encoder)), cut=False)
    encoder = _encoder(context, wanted)
    encoder.embedder.check_version()
    try:
        wait_for(_probe(encoder))
    except WrongDimension:
        if wanted.cut:
            raise
        wait_for(_probe(_encoder(context, replace(wanted, cut=True))))
        notices.append(
            f"{wanted.model} gives more than {wanted.dimensions} dimensions: cut here, cut=True in the script"
        )
        return replace(wanted, cut=True)
    return wanted


async def _raw(encoder: Encoder) -> int:
    try:
        return int((await encoder.embedder.embed([PROBE_TEXT], "document")).vectors.shape[1])
    finally:
        await encoder.embedder.aclose()


async def _probe(encoder: Encoder) -> None:
    try:
        await encoder.encode([PROBE_TEXT], "document")
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
    missing = sum(map(len, cache.missing(model, "document", texts)))
    most = find_price(space, settings).of(missing / 2)  # two characters a token: dearer than any real text
    if settings.max_cost is not None and most is not None and most > settings.max_cost:
        raise AnswerIsNo(
            f"embedding the sample could cost ${most:.2f}, more than max_cost (${settings.max_cost:g})",
            hint="--sample takes fewer rows",
        )
    documents = cache.documents(encoder, model, texts)
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

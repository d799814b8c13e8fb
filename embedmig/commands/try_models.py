"""try: which model, at which size, for what price, on a sample of the collection's own texts. Changes nothing in the database."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from embedmig.commands.evaluate import make_golden as make_golden_set
from embedmig.commands.project import Project, ProjectLike, opened
from embedmig.database import Connection, first_line
from embedmig.embedders.encoder import Encoded
from embedmig.errors import AnswerIsNo, EmbedmigError, UsageError
from embedmig.formatting import plural
from embedmig.lazy import Later
from embedmig.operations.base import Context
from embedmig.operations.evaluating import check_k, default_set
from embedmig.operations.judging import judge_rankings
from embedmig.operations.trying import Live, Sample, embed_candidate, measure_candidate
from embedmig.quality import golden
from embedmig.quality.answers import answer, encode, without_unknown
from embedmig.quality.embedding_cache import EmbeddingCache, cache_file
from embedmig.quality.golden import GoldenSet
from embedmig.quality.judging import judged_set
from embedmig.quality.measures import summary
from embedmig.quality.trial import Trial, judged
from embedmig.source import count_rows
from embedmig.source.rows import Key
from embedmig.source.sampling import draw_rows, named_rows
from embedmig.stores.search import Ranker, Resolved, resolve_space
from embedmig.types import Space

if TYPE_CHECKING:
    import numpy as np
else:
    np = Later("numpy")

MOST = 20_000  # rows of which vectors are held in memory, and which the live version ranks for each question
CANDIDATE = re.compile(r"(?P<model>[A-Za-z0-9_-]+/\S+)@(?P<version>[A-Za-z0-9._+-]+)(?:/(?P<dimensions>\d+))?")


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
    make_golden: int | None = None,
    judge: str | None = None,
    max_cost: float | None = None,
) -> TrialResult:
    """Measures models on a sample that holds every judged row: quality, cost, time, latency, disk. Calls the models; what they
    give is kept in ``.embedmig/embeddings.sqlite``, so that a second look calls none.

    A candidate is ``PROVIDER/MODEL@VERSION[/DIMENSIONS]``, or the fields of a :class:`Space`. One that fails has an ``error``.
    ``make_golden`` draws a set of so many known items first, as ``eval`` does. ``judge``, a language model ``PROVIDER/MODEL`` with the
    protocol of OpenAI, grades what the candidates find for ``queries``; with a golden set it is measured how well it agrees with that.
    ``max_cost`` is the most USD for any one model, the judge included.
    Raises :class:`UsageError` for what can't be asked, and where every candidate fails what the first one's model raises.
    """
    project = opened(project)
    check_k(k)
    spaces = [_space(project, collection, one) for one in candidates]
    if not spaces:
        raise UsageError("no candidate is given", hint="--candidate PROVIDER/MODEL@VERSION, or --candidates FILE.yaml")
    if not 1 <= sample <= MOST:
        raise UsageError(f"a sample of {sample:,} is not possible", hint=f"--sample goes from 1 to {MOST:,}")
    made = [_make_golden(project, collection, make_golden, golden_set, queries, seed)] if make_golden else []
    asked = _asked(project, collection, golden_set, queries)
    with project.looking() as (context, conn), closing(EmbeddingCache(cache_file(project.config))) as cache:
        drawn, notices, named = _draw(context, conn, collection, asked, sample, seed, k)
        drawn = replace(drawn, max_cost=max_cost)
        if judge:
            drawn = _judge(context, conn, cache, judge, spaces, drawn, notices)
        live = _live(context, conn, collection, drawn, notices)
        trials: list[Trial] = []
        failed: list[EmbedmigError] = []
        for wanted in spaces:
            try:
                candidate = embed_candidate(context, cache, wanted, drawn, notices)
                trials += measure_candidate(conn, candidate, drawn, live, notices)
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
        trials, made + _said(drawn, live) + notices,
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


def _make_golden(
    project: Project, collection: str, count: int, golden_set: Path | str | None, queries: Path | str | None, seed: int
) -> str:
    """Draws it, and says what it can show."""
    if queries:
        raise UsageError("--make-golden and --queries exclude each other", hint="a golden set holds queries too")
    drawn = make_golden_set(project, collection, count, golden_set, seed)
    return f"{drawn.path}: {plural(drawn.queries, 'query', 'queries')}. {drawn.shows}"


def _judge(
    context: Context, conn: Connection, cache: EmbeddingCache, model: str, spaces: Sequence[Space], drawn: Sample, notices: list[str]
) -> Sample:  # fmt: skip
    """Has what the candidates and the live version find judged, and says what that is worth. Queries without judgements get them."""
    rankings = [ranked for wanted in spaces for ranked in _rankings(context, cache, wanted, drawn)]
    live = _live(context, conn, spaces[0].collection, drawn, [])
    asked = drawn.asked
    found = judge_rankings(context, cache, model, drawn, [*rankings, *([live.ranked] if live else [])])
    notices.append(found.words(asked))
    if asked.judged:
        return drawn
    judged_by, left = judged_set(asked, found.grades)
    if not judged_by.questions:
        raise AnswerIsNo(
            f"{model} found nothing relevant among {plural(len(found.grades), 'passage')}", hint="look at the queries"
        )
    if left:
        notices.append(f"{plural(left, 'query', 'queries')} left out: {model} found nothing relevant to them")
    return replace(drawn, asked=judged_by)


def _rankings(context: Context, cache: EmbeddingCache, wanted: Space, drawn: Sample) -> list[Sequence[Sequence[Key]]]:
    """What a candidate finds in each of its forms; nothing where it fails, which is said when it is measured."""
    try:
        return [ranked for _, ranked in embed_candidate(context, cache, wanted, drawn, []).ranked]
    except EmbedmigError:
        return []


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
    record = next((one for one in context.spaces(conn, collection) if one.state == "active"), None)
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

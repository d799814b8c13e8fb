"""bridge: fits a map from one version's space to another's, and says whether it pays."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from embedmig.commands.project import ProjectLike, opened
from embedmig.commands.spaces import find_space
from embedmig.database import Connection, first_line
from embedmig.database.registry import SpaceRecord
from embedmig.embedders.encoder import Encoded
from embedmig.errors import DatabaseUnavailable, UsageError
from embedmig.operations.base import Context
from embedmig.operations.evaluating import check_k, completeness_of, default_set, encoded_queries
from embedmig.operations.reranking import fill
from embedmig.operations.shared_vectors import ranker, shared_vectors
from embedmig.quality import bridge as bridging
from embedmig.quality import golden
from embedmig.quality.answers import Rankings, answer, encode, reranked, without_unknown
from embedmig.quality.bridge import FEWEST, MOST, BridgeFit, BridgeVerdict
from embedmig.quality.bridge_table import BridgeTable
from embedmig.quality.golden import GoldenSet
from embedmig.quality.measures import Scores, score, summary
from embedmig.stores.search import encoder_for

DEPTH = 50


@dataclass(frozen=True, slots=True)
class BridgeOption:
    """One way to answer: mean nDCG@k with its 95 % interval."""

    name: str
    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class BridgeResult:
    """What ``bridge`` found. ``fits`` are the held-out figures of each method, that of the map that is kept first. ``options`` compare, on a golden set:
    to stay, the bridge, the bridge with re-ranking of fifty, and the other version alone where it is complete.
    ``answer`` compares the bridge with staying: ``difference`` of nDCG@k with its interval; None without a golden set.
    """

    collection: str
    source: str
    target: str
    rows: int
    fits: list[dict[str, Any]]
    answer: BridgeVerdict | None
    words: str
    options: list[BridgeOption] = field(default_factory=list)
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    stored: bool = False
    notices: list[str] = field(default_factory=list)


def bridge(
    project: ProjectLike, collection: str, source: str, target: str, *, golden_set: Path | str | None = None, k: int = 10,
    sample: int = MOST, seed: int = 0,
) -> BridgeResult:  # fmt: skip
    """Fits a map of queries of version ``source`` to the vectors of version ``target`` on rows that both hold, measures it, and keeps it.

    Raises :class:`UsageError` where they hold fewer than a thousand together, or cut texts in different ways.
    """
    project = opened(project)
    check_k(k)
    if not FEWEST <= sample <= MOST:
        raise UsageError(f"--sample is from {FEWEST:,} to {MOST:,} rows")
    place = Path(golden_set or default_set(project.config, collection))
    asked = golden.read(place) if golden_set or place.exists() else None
    notices: list[str] = []
    with project.looking() as (context, conn):
        one, other = (find_space(project, context, conn, collection, version) for version in (source, target))
        check_pair(one, other)
        fits = bridging.fit(*shared_vectors(context, conn, one, other, sample, seed, FEWEST), seed)
        if asked:
            asked, left_out = without_unknown(conn, context.source(conn, collection), asked)
            notices += left_out
            result = measured(context, conn, one, other, fits, asked, k, notices)
        else:
            words = f"not measured: --golden FILE, or {place.name}, says whether it pays"
            result = BridgeResult(collection, one.version, other.version, fits[0].rows, figures(fits), None, words)
    return keep(context, one, other, fits[0], result, asked, k, notices)


def check_pair(one: SpaceRecord, other: SpaceRecord) -> None:
    """Raises :class:`UsageError` for two versions whose vectors are not of the same texts."""
    if one.version == other.version:
        raise UsageError("--from and --to are the same version")
    if one.space.chunk != other.space.chunk or one.text_columns != other.text_columns:
        raise UsageError(
            f"{one.version} and {other.version} embed different texts: other columns, or cut differently",
            hint="a bridge is fitted on vectors of the same texts",
        )


def measured(
    context: Context, conn: Connection, one: SpaceRecord, other: SpaceRecord, fits: list[BridgeFit], asked: GoldenSet, k: int,
    notices: list[str],
) -> BridgeResult:  # fmt: skip
    """On the golden set, by exact search: no index's loss is taken for a map's."""
    resolved, own = encoded_queries(context, conn, other, asked, notices)
    settings = context.config.settings(one.space.query_side.provider)
    queries = encode(encoder_for(one.space, one.weights, settings), [question.query for question in asked.questions])
    mapped = Encoded(fits[0].apply(queries.vectors), rejected=queries.rejected)
    through = answer(conn, resolved, mapped, max(k, DEPTH), exact=True)
    fill(context, conn, one, {key for keys in through.keys for key in keys[:DEPTH]}, notices)
    ways = {
        "stay": answer(conn, resolved, own, k, exact=True),
        "bridge": Rankings([hits[:k] for hits in through.hits], through.milliseconds),
        f"bridge, {DEPTH} re-ranked": reranked(
            conn, resolved, ranker(context, conn, one), (mapped, queries), k, DEPTH, exact=True
        ),
    }
    by_ridge = Encoded(fits[1].apply(queries.vectors), rejected=queries.rejected)
    ways["ridge, for comparison"] = answer(conn, resolved, by_ridge, k, exact=True)
    if completeness_of(context, conn, one) >= context.config.gates.completeness:
        new, encoded = encoded_queries(context, conn, one, asked, notices)
        ways["new"] = answer(conn, new, encoded, k, exact=True)
    scores: dict[str, Scores] = {
        name: score(asked.questions, found.keys, k)[f"ndcg@{k}"] for name, found in ways.items()
    }
    said, mean, low, high = bridging.verdict(scores["stay"], scores["bridge"])
    words = f"{said}: beside staying, nDCG@{k} changes by {mean:+.4f}, between {low:+.4f} and {high:+.4f} with 95 % confidence"
    options = [BridgeOption(name, **summary(values)) for name, values in scores.items()]
    return BridgeResult(
        one.collection, one.version, other.version, fits[0].rows, figures(fits), said, words, options, mean, low, high
    )  # fmt: skip


def figures(fits: list[BridgeFit]) -> list[dict[str, Any]]:
    """The held-out figures, as JSON has them."""
    return [{"method": one.method, "cosine": one.cosine, "neighbours": one.neighbours} for one in fits]


def keep(
    context: Context, one: SpaceRecord, other: SpaceRecord, fit: BridgeFit, found: BridgeResult, asked: GoldenSet | None, k: int,
    notices: list[str],
) -> BridgeResult:  # fmt: skip
    """In the registry; a role that may not write still has its figures."""
    kept: dict[str, Any] = {"fits": found.fits, "answer": found.answer}
    if asked:
        options = {way.name: [way.value, way.low, way.high] for way in found.options}
        kept |= {
            "golden": asked.name,
            "k": k,
            "difference": found.difference,
            "low": found.low,
            "high": found.high,
            "options": options,
        }
    stored = True
    try:
        with context.database.connect("bridge") as conn:
            BridgeTable(context.database.schema).save(conn, one, other, fit, kept)
    except (psycopg.Error, DatabaseUnavailable) as error:
        stored = False
        notices = [*notices, f"the bridge was not kept: {first_line(error)}"]
    return BridgeResult(
        found.collection, found.source, found.target, found.rows, found.fits, found.answer, found.words, found.options,
        found.difference, found.low, found.high, stored, notices,
    )  # fmt: skip

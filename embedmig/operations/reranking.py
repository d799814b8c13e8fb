"""Measuring what re-ranking reads would find: one version recalls, another one ranks. What the other lacks is embedded and kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from embedmig.database import Connection
from embedmig.database.registry import SpaceRecord
from embedmig.engine.on_demand import embed_rows
from embedmig.errors import UsageError
from embedmig.formatting import plural
from embedmig.gates.evidence import Evaluation
from embedmig.operations.base import Context
from embedmig.operations.evaluating import completeness_of, encoded_queries, has_index
from embedmig.quality.answers import Rankings, answer, encode, evaluation, reranked
from embedmig.quality.golden import GoldenSet
from embedmig.source.rows import Key
from embedmig.stores.search import Ranker, encoder_for
from embedmig.types import MAX_RERANK_DEPTH

DEPTHS = (20, 50, 100)


def check_depths(depths: Sequence[int]) -> None:
    """Raises :class:`UsageError` for numbers of candidates that can't be."""
    if not depths or not all(1 <= depth <= MAX_RERANK_DEPTH for depth in depths):
        raise UsageError(f"--depth is from 1 to {MAX_RERANK_DEPTH:,}", hint="several are written 20,50,100")


@dataclass(frozen=True, slots=True)
class Reranked:
    """What re-ranking finds at each depth; ``texts`` is how many texts a query would have embedded there, asked one after the
    other of an empty space.
    """

    rankings: list[Rankings]
    texts: list[float]


def rank_candidates(
    context: Context, conn: Connection, recall: SpaceRecord, record: SpaceRecord, asked: GoldenSet, k: int, depths: Sequence[int],
    notices: list[str], *, exact: bool,
) -> Reranked:  # fmt: skip
    """For each depth, what ``record`` makes of the rows that ``recall`` finds. What it lacks of them is embedded and kept."""
    resolved, first = encoded_queries(context, conn, recall, asked, notices)
    found = answer(conn, resolved, first, max(depths), exact=exact)
    fill(context, conn, record, {key for keys in found.keys for key in keys}, notices)
    manifest = context.manifest(conn, record)
    ranker = Ranker(manifest, manifest.shown(conn))
    settings = context.config.settings(record.space.query_side.provider)
    second = encode(encoder_for(record.space, record.weights, settings), [one.query for one in asked.questions])
    return Reranked(
        [reranked(conn, resolved, ranker, (first, second), k, depth, exact=exact) for depth in depths],
        [len({key for keys in found.keys for key in keys[:depth]}) / len(asked.questions) for depth in depths],
    )


def measure_reranking(
    context: Context, conn: Connection, recall: SpaceRecord, record: SpaceRecord, asked: GoldenSet, k: int, depths: Sequence[int],
    notices: list[str], *, exact_only: bool = False,
) -> list[Evaluation]:  # fmt: skip
    """One evaluation a depth, with ``texts`` among the measures. ``completeness`` is that of the version that recalls."""
    exact = exact_only or not has_index(context, conn, recall)
    found = rank_candidates(context, conn, recall, record, asked, k, depths, notices, exact=exact)
    completeness = completeness_of(context, conn, recall)
    evaluations = []
    for depth, rankings, texts in zip(depths, found.rankings, found.texts, strict=True):
        one, _ = evaluation(asked, record.version, rankings, k, exact=exact, completeness=completeness)
        metrics = one.metrics | {"texts": {"value": texts, "low": texts, "high": texts}}
        evaluations.append(replace(one, metrics=metrics, recalled_by=recall.version, depth=depth))
    return evaluations


def fill(context: Context, conn: Connection, record: SpaceRecord, keys: set[Key], notices: list[str]) -> None:
    """Has the space hold these rows. Raises :class:`UsageError` where the application writes its vectors."""
    store = context.manifest(conn, record)
    lacking = [key for key, batched in store.lacking_among(conn, sorted(keys)).items() if not batched]
    if not lacking:
        return
    if record.writer != "embedmig":
        raise UsageError(
            f"{record.version} lacks {plural(len(lacking), 'candidate')}, and the application writes its vectors",
            hint="measure it when it is complete",
        )
    did = embed_rows(
        context.database, context.registry, store, lambda: context.encoder(record.space, record.weights),
        context.limit(record.space), lacking,
    )  # fmt: skip
    cost = f", ${did.cost:.2g}" if did.cost else ""
    notices.append(
        f"{plural(did.rows, 'candidate')} had no vector of {record.version} and got one{cost}; a backfill need not embed them again"
    )

"""What a version finds for a set of questions, through the index and exactly, and how long it takes."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from psycopg import sql

from embedmig.database import Connection
from embedmig.database.registry import as_array
from embedmig.embedders.blocking import wait_for
from embedmig.embedders.encoder import Encoded, Encoder
from embedmig.errors import UsageError
from embedmig.gates.evidence import Evaluation
from embedmig.quality.golden import GoldenSet, Question
from embedmig.quality.measures import Scores, latencies, score, summary
from embedmig.source import Source
from embedmig.source.rows import Key
from embedmig.stores.search import Ranker, Resolved, nearest
from embedmig.types import Hit

WORST = 10  # queries kept with an evaluation


@dataclass(frozen=True, slots=True)
class Rankings:
    """For each question the rows found, nearest first; and the search's milliseconds, the model's aside."""

    hits: Sequence[Sequence[Hit]]
    milliseconds: Sequence[float]

    @property
    def keys(self) -> list[list[Key]]:
        """For each question the rows found, as golden sets name them."""
        return [[hit.key_text for hit in hits] for hits in self.hits]


def encode(encoder: Encoder, texts: Sequence[str]) -> Encoded:
    """The queries' vectors ``(n, dimensions)``, encoded as queries, in batches; closes the model."""

    async def ask() -> Encoded:
        try:
            return await encoder.encode(texts, "query")
        finally:
            await encoder.embedder.aclose()

    return wait_for(ask())


def answer(conn: Connection, resolved: Resolved, encoded: Encoded, k: int, *, exact: bool) -> Rankings:
    """Asks a space every question; one that the model refused finds nothing."""
    hits: list[list[Hit]] = []
    times = []
    for place, vector in enumerate(encoded.vectors):
        if place in encoded.rejected:
            hits.append([])
            continue
        began = time.perf_counter()
        found = nearest(conn, resolved, vector.tolist(), k, exact=exact)
        times.append((time.perf_counter() - began) * 1000)
        hits.append(found)
    return Rankings(hits, times)


def reranked(
    conn: Connection, recall: Resolved, ranker: Ranker, queries: tuple[Encoded, Encoded], k: int, depth: int, *, exact: bool
) -> Rankings:  # fmt: skip
    """For each question the best ``k`` of the ``depth`` rows that one version finds, by the vectors of the other alone. ``queries``
    are the questions in the terms of both; one that either model refused finds nothing.
    """
    first, second = queries
    hits: list[list[Hit]] = []
    times = []
    for place in range(len(first.vectors)):
        if place in first.rejected or place in second.rejected:
            hits.append([])
            continue
        began = time.perf_counter()
        found = nearest(conn, recall, first.vectors[place].tolist(), depth, exact=exact)
        ranked = ranker.rank(conn, [hit.key_text for hit in found], second.vectors[place].tolist())
        times.append((time.perf_counter() - began) * 1000)
        hits.append(ranked[:k])
    return Rankings(hits, times)


def evaluation(
    golden: GoldenSet, version: str, answers: Rankings, k: int, *, exact: bool, completeness: float
) -> tuple[Evaluation, dict[str, Scores]]:
    """What an answer is worth, with each question's scores."""
    scores = score(golden.questions, answers.keys, k)
    found = Evaluation(
        version, golden.name, golden.digest, k, "exact" if exact else "index", len(golden.questions),
        {name: summary(values) for name, values in scores.items()}, latencies(answers.milliseconds), completeness,
        worst=worst(golden, scores), scores=[float(one) for one in scores[f"ndcg@{k}"]],
    )  # fmt: skip
    return found, scores


def worst(golden: GoldenSet, scores: Mapping[str, Scores]) -> list[dict[str, Any]]:
    """The queries with the lowest scores, by the first measure and then the next; those with full marks aside."""
    rows = sorted(zip(*scores.values(), golden.questions, strict=True), key=lambda row: (*row[:-1], row[-1].number))
    return [
        {"number": question.number, "query": question.query, "tags": list(question.tags)}
        | {name: round(float(value), 4) for name, value in zip(scores, values, strict=True)}
        for *values, question in rows[:WORST] if values[0] < 1
    ]  # fmt: skip


def without_unknown(conn: Connection, source: Source, golden: GoldenSet) -> tuple[GoldenSet, list[str]]:
    """The set without judgements of rows that the source doesn't have, and in words what was left out.

    No version could find those. Raises :class:`UsageError` where nothing is left.
    """
    wanted = {key for question in golden.questions for key in question.relevant}
    unknown = wanted - existing(conn, source, wanted)
    if not unknown:
        return golden, []
    kept = [_without(question, unknown) for question in golden.questions]
    left = tuple(question for question in kept if any(question.relevant.values()))
    named = ", ".join("/".join(key) for key in sorted(unknown)[:3])
    said = f"{len(unknown):,} of {len(wanted):,} judged keys are not in {source.collection.table} (such as {named})"
    if not left:
        raise UsageError(
            f"{golden.name}: {said}", hint=f"the key is ({', '.join(column.name for column in source.key)}), as text"
        )
    dropped = len(kept) - len(left)
    lost = f"; {dropped:,} of {len(kept):,} queries have no relevant row left and were skipped" if dropped else ""
    return replace(golden, questions=left), [f"{said}: left out{lost}"]


def existing(conn: Connection, source: Source, keys: set[Key]) -> set[Key]:
    """Which of these keys the source has."""
    query = sql.SQL("select k.key from (select unnest({}::text[])::text[] as key) k join {} s on {} = k.key").format(
        sql.Literal([as_array(key) for key in keys]), source.rows(text=False), source.key_text("s")
    )
    return {tuple(row[0]) for row in conn.execute(query)}


def _without(question: Question, unknown: set[Key]) -> Question:
    return replace(question, relevant={key: grade for key, grade in question.relevant.items() if key not in unknown})

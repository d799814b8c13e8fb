"""Relevance judged by a language model, for queries that nobody has judged; and how well it agrees with people where they have."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace

from embedmig.embedders.blocking import wait_for
from embedmig.embedders.judge import Judge
from embedmig.embedders.tokens import estimate_tokens
from embedmig.engine.context import SpendingLimit
from embedmig.quality.embedding_cache import EmbeddingCache
from embedmig.quality.golden import GoldenSet
from embedmig.source.rows import Key

AT_ONCE = 8
RELEVANT = 2  # a grade from which on a passage counts as an answer, where people's yes and no is compared

Pair = tuple[str, Key]
"""A query and a row."""


def pool(golden: GoldenSet, rankings: Sequence[Sequence[Sequence[Key]]]) -> list[Pair]:
    """What any of several rankings found for each question, once."""
    found = {(one.query, key): None for ranked in rankings for one, keys in zip(golden.questions, ranked, strict=True) for key in keys}  # fmt: skip
    return list(found)


def grades_of(
    judge: Judge, name: str, cache: EmbeddingCache, limit: SpendingLimit, pairs: Sequence[Pair], texts: Mapping[Key, str]
) -> dict[Pair, int]:  # fmt: skip
    """The grades of the pairs, without those that the judge gave no grade; each pair is asked for once, and kept in the cache under
    ``name``. Raises :class:`AnswerIsNo` before the limit could be passed: what was judged until then is kept.
    """
    prompts = {pair: judge.prompt(pair[0], texts[pair[1]]) for pair in pairs}
    found = cache.grades(name, list(prompts.values()))
    missing = [prompt for prompt in dict.fromkeys(prompts.values()) if prompt not in found]
    wait_for(_ask(judge, name, cache, limit, missing))
    found |= cache.grades(name, missing)
    return {pair: grade for pair, prompt in prompts.items() if (grade := found[prompt]) is not None}


async def _ask(judge: Judge, name: str, cache: EmbeddingCache, limit: SpendingLimit, prompts: Sequence[str]) -> None:
    async def one(prompt: str) -> None:
        ahead = limit.cost(len(prompt.encode()) / 2) or 0.0
        limit.begin(ahead, hint="raise --max-cost; what is judged by now is kept and not asked again")
        tokens = None
        try:
            grade, tokens = await judge.grade(prompt)
            cache.keep_grade(name, prompt, grade)
        finally:
            limit.settle(ahead, limit.cost(estimate_tokens([prompt]) if tokens is None else tokens) or 0.0)

    try:
        for start in range(0, len(prompts), AT_ONCE):
            some = await asyncio.gather(*map(one, prompts[start : start + AT_ONCE]), return_exceptions=True)
            if error := next(filter(None, some), None):  # after the others were answered, and kept
                raise error
    finally:
        await judge.aclose()


def judged_set(golden: GoldenSet, grades: Mapping[Pair, int]) -> tuple[GoldenSet, int]:
    """The questions with these grades as their judgements, and how many were left out because nothing relevant was found."""
    by_query: dict[str, dict[Key, int]] = {}
    for (query, key), grade in grades.items():
        by_query.setdefault(query, {})[key] = grade
    questions = [replace(one, relevant=by_query.get(one.query, {})) for one in golden.questions]
    kept = tuple(one for one in questions if any(one.relevant.values()))
    return GoldenSet(golden.name, kept), len(questions) - len(kept)


def agreement(golden: GoldenSet, grades: Mapping[Pair, int]) -> tuple[int, float, float | None]:
    """Of the pairs that were judged by the model: how many there are, the share on which people said the same (relevant or not; what
    the set does not name is not), and Cohen's kappa (1960); None where one side always says the same.
    """
    people = {one.query: {key for key, grade in one.relevant.items() if grade > 0} for one in golden.questions}
    both = [(grade >= RELEVANT, key in people.get(query, ())) for (query, key), grade in grades.items()]
    count = max(1, len(both))
    same = sum(one == other for one, other in both) / count
    yes, said = sum(one for one, _ in both) / count, sum(other for _, other in both) / count
    chance = yes * said + (1 - yes) * (1 - said)
    return len(both), same, None if chance == 1 else (same - chance) / (1 - chance)

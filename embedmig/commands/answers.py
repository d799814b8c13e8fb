"""Both answers to a few queries of a golden set: what two versions find, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from embedmig.commands.project import Project
from embedmig.commands.spaces import find_space
from embedmig.errors import EmbedmigError
from embedmig.operations.evaluating import default_set, encoded_queries, has_index
from embedmig.quality import golden
from embedmig.quality.answers import answer
from embedmig.types import Hit


@dataclass(frozen=True, slots=True)
class BothAnswers:
    """The first rows that two versions find for a query, as lists of ``old`` and ``new``; ``relevant`` are keys that answer it."""

    query: str
    relevant: frozenset[tuple[str, ...]]
    old: list[Hit]
    new: list[Hit]


def both_answers(
    project: Project, collection: str, versions: tuple[str, str], digest: str, numbers: Sequence[int], k: int = 3
) -> tuple[dict[int, BothAnswers], str]:
    """By the query's number in the collection's golden set, and in words why there is none. Asks both models for each query.

    ``digest`` is that of the set with which both versions were measured: of another set, the numbers mean nothing.
    """
    try:
        asked = golden.read(default_set(project.config, collection))
        if asked.digest != digest:
            return {}, f"{asked.name} is not the set that was measured with: embedmig eval {collection}"
        chosen = replace(asked, questions=tuple(asked.questions[number - 1] for number in numbers))
        found = []
        with project.looking() as (context, conn):
            for version in versions:
                record = find_space(project, context, conn, collection, version)
                resolved, encoded = encoded_queries(context, conn, record, chosen, [])
                found.append(answer(conn, resolved, encoded, k, exact=not has_index(context, conn, record)).hits)
    except EmbedmigError as error:
        return {}, error.message
    pairs = zip(numbers, chosen.questions, *found, strict=True)
    return {number: BothAnswers(one.query, _relevant(one), list(old), list(new)) for number, one, old, new in pairs}, ""


def _relevant(question: golden.Question) -> frozenset[tuple[str, ...]]:
    return frozenset(tuple(key) for key, grade in question.relevant.items() if grade > 0)

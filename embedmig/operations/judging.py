"""Rankings judged by a language model that the configuration knows how to reach."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from embedmig.embedders.judge import Judge
from embedmig.engine.context import SpendingLimit
from embedmig.errors import UsageError
from embedmig.formatting import plural, usd
from embedmig.operations.base import Context
from embedmig.operations.trying import Sample
from embedmig.planning.prices import find_price, kind_of
from embedmig.quality.embedding_cache import EmbeddingCache
from embedmig.quality.golden import GoldenSet
from embedmig.quality.judging import Pair, agreement, grades_of, pool
from embedmig.source.rows import Key
from embedmig.types import Space


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a judge said of ``pairs`` pairs, and its cost in USD; None where its price is unknown."""

    model: str
    pairs: int
    grades: Mapping[Pair, int]
    cost: float | None

    def words(self, golden: GoldenSet) -> str:
        """What was done, and how well the judge agrees with people, as far as ``golden`` has their judgements."""
        said = f"{self.model} judged {len(self.grades):,} of {plural(self.pairs, 'pair')} of query and row ({usd(self.cost)})"
        if not golden.judged:
            return f"{said}; how well it agrees with people is unmeasured: the queries have no judgements of theirs"
        count, same, kappa = agreement(golden, self.grades)
        return f"{said}; on {plural(count, 'pair')} it agrees with {golden.name} in {same:.0%}, kappa " + (
            "unknown" if kappa is None else f"{kappa:.2f}"
        )


def judge_rankings(
    context: Context, cache: EmbeddingCache, model: str, drawn: Sample, rankings: Sequence[Sequence[Sequence[Key]]]
) -> Judgement:
    """Grades every row that any ranking has for each question. Raises :class:`UsageError` for a judge that can't be reached so, and
    :class:`AnswerIsNo` before ``max_cost`` could be passed.
    """
    provider, slash, _ = model.partition("/")
    space = Space(collection="judge", model=model if slash else f"openai/{model}", version="0", dimensions=1)
    settings = context.config.settings(space.provider)
    if kind_of(space, settings) != "openai":
        raise UsageError(f"--judge {model}: {provider} does not speak OpenAI's protocol", hint="--judge openai/MODEL")
    price = find_price(space, settings).per_million
    if drawn.max_cost is not None and price is None:
        raise UsageError(
            f"the price of {space.name} is unknown, so max_cost can't be kept",
            hint=f'[embedders.{space.provider}.prices] "{space.name}" = USD per million tokens',
        )
    limit = SpendingLimit(price, drawn.max_cost)
    pairs = pool(drawn.asked, rankings)
    grades = grades_of(Judge(space, settings), space.model, cache, limit, pairs, dict(drawn.rows))
    return Judgement(space.model, len(pairs), grades, None if price is None else limit.spent)

"""Batches by tokens: nothing is lost, nothing is over the budget, and the longest come first."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from embedmig.embedders.token_batches import TokenBudget, batches

LENGTHS = st.lists(st.integers(0, 600), max_size=200)


@given(LENGTHS, st.integers(1, 5000))
def test_every_text_is_in_one_batch_and_no_batch_is_over_the_budget_but_of_a_single_text(
    lengths: list[int], budget: int
) -> None:
    made = list(batches(lengths, budget))
    assert sorted(place for places in made for place in places) == list(range(len(lengths)))
    in_order = [lengths[place] for places in made for place in places]
    assert in_order == sorted(lengths, reverse=True)
    for places in made:
        assert len(places) == 1 or len(places) * max(lengths[place] for place in places) <= max(budget, len(places))


def test_a_budget_is_halved_from_what_did_not_fit_and_never_grows() -> None:
    budget = TokenBudget(1000)
    budget.shrink_below(600)
    assert budget.tokens == 300
    budget.shrink_below(4000)
    assert budget.tokens == 300
    budget.shrink_below(1)
    assert budget.tokens == 1

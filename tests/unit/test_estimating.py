"""An extrapolation says how far off it may be, and is no further off than it says."""

from __future__ import annotations

import random

import pytest

from embedmig.config.settings import EmbedderSettings
from embedmig.database.ledger import Measured
from embedmig.intervals import relative_error
from embedmig.planning.prices import LISTED, find_price
from embedmig.planning.tokens import Weighed, extrapolate
from embedmig.stores.index_sizes import graph_bytes, index_bytes, table_bytes
from embedmig.types import Space


def corpus(chance: random.Random, rows: int) -> list[Weighed]:
    """Texts of very different lengths, with about four characters a token."""
    lengths = [int(chance.lognormvariate(6, 1)) + 1 for _ in range(rows)]
    return [Weighed(size, size, max(1, round(size / chance.uniform(3, 5))), 1) for size in lengths]


@pytest.mark.parametrize("known", [True, False], ids=["characters known", "rows alone known"])
def test_the_interval_holds_the_truth_nineteen_times_of_twenty(known: bool) -> None:
    chance = random.Random(7)
    texts = corpus(chance, 5000)
    truth, characters = sum(one.tokens or 0 for one in texts), sum(one.characters for one in texts)
    hits = 0
    for _ in range(400):
        found = extrapolate(chance.sample(texts, 200), len(texts), characters if known else None)
        hits += abs(found.tokens - truth) <= found.error
    assert 0.90 <= hits / 400 <= 0.99


def test_where_the_characters_are_known_the_interval_is_much_narrower() -> None:
    chance = random.Random(7)
    texts = corpus(chance, 5000)
    drawn = chance.sample(texts, 200)
    by_characters = extrapolate(drawn, 5000, sum(one.characters for one in texts))
    assert by_characters.error < extrapolate(drawn, 5000, None).error / 3


def test_what_was_read_whole_has_no_error_and_one_request_alone_has_a_great_one() -> None:
    whole = Weighed(400, 400, 100, 10, texts=10)
    assert extrapolate([whole], 10, 400, "probe").error == 0
    alone = extrapolate([whole], 1000, 40_000, "probe")
    assert alone.error > alone.tokens


def test_without_tokens_it_is_four_characters_each_and_vectors_follow_the_cutting() -> None:
    found = extrapolate([Weighed(100, 120, None, 3), Weighed(300, 360, None, 9)], 20, 4000)
    assert (found.tokens, found.error, found.basis, found.vectors) == (1200, 360, "characters", 120)
    assert extrapolate([], 0, 0).tokens == 0


def test_the_interval_of_a_rate_needs_two_requests() -> None:
    assert relative_error([0.5]) is None
    assert relative_error([0.5, 0.5, 0.5]) == 0
    assert relative_error([1.0, 1.0, 1.3, 0.7]) == pytest.approx(3.18 * 0.2449 / 2, rel=0.01)


def test_long_texts_take_longer_where_tokens_are_known() -> None:
    assert Measured(100, 1000, 10.0, "0001").seconds_for(100, 4000) == 40
    assert Measured(100, None, 10.0, "0001").seconds_for(50, 4000) == 5


def test_where_a_price_comes_from_is_said_and_what_is_not_known_is_not_0() -> None:
    listed = Space("docs", "openai/text-embedding-3-small", "1", 256)
    other = Space("docs", "openai/text-embedding-9", "1", 256)
    assert find_price(listed).origin == "list price of 2026-11-21 (developers.openai.com)"
    assert find_price(listed, EmbedderSettings(base_url="http://here")).per_million is None
    assert find_price(other).of(1000) is None
    voyage = EmbedderSettings(kind="openai", base_url="https://api.voyageai.com/v1")
    assert find_price(Space("docs", "mine/voyage-4-lite", "1", 256), voyage).per_million == 0.02
    assert find_price(Space("docs", "voyage/voyage-4-lite", "1", 256)).per_million is None
    assert all(one.source.startswith("https://") and one.seen for one in LISTED.values())
    both = EmbedderSettings(price=3.0, prices={"text-embedding-9": 4.0})
    assert [find_price(space, both).per_million for space in (listed, other)] == [3.0, 4.0]
    assert find_price(Space("docs", "wordllama/x", "1", 64)).of(1000) == 0


def test_halfvec_takes_half_of_the_table_and_nothing_takes_nothing() -> None:
    assert table_bytes(0, 256, "vector") == graph_bytes(0, 256, "vector", 16) == 0
    assert index_bytes(0, 256, "vector", 16) == 8192
    assert 0.4 < table_bytes(10_000, 1024, "halfvec") / table_bytes(10_000, 1024, "vector") < 0.6


def test_an_index_element_that_does_not_fit_beside_another_has_a_page_of_its_own() -> None:
    assert index_bytes(100, 1024, "vector", 16) == 101 * 8192
    assert index_bytes(99, 1024, "halfvec", 16) == 34 * 8192
    assert index_bytes(100, 2000, "vector", 16) == 201 * 8192  # and its neighbours have another

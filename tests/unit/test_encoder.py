"""What the Encoder promises around any provider: identity, the door, and poison passed by."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from embedmig import testing
from embedmig.embedders import PROBE_TEXT, EmbedderSettings, create, providers
from embedmig.embedders.blocking import wait_for
from embedmig.embedders.encoder import Encoded, Encoder, pack, row_faults, unit
from embedmig.embedders.tokens import estimate
from embedmig.embedders.weights import is_prefix
from embedmig.errors import (
    BadAnswer,
    EmbedderMisconfigured,
    EmbedderUnavailable,
    InputRefused,
    PlanError,
    RequestTooLarge,
    RunSuperseded,
    TextTooLong,
)
from embedmig.planning import prices
from embedmig.testing import FakeEmbedder, fake_space, fake_vectors
from embedmig.types import Answer, Limits, Space, fingerprint


def encode(texts: list[str], embedder: FakeEmbedder | None = None, role: Any = "document", **space: Any) -> Encoded:
    return asyncio.run(Encoder(fake_space(**space), embedder or FakeEmbedder()).encode(texts, role))


def words(count: int) -> list[str]:
    return [f"text {number}" for number in range(count)]


def short(texts: list[str]) -> Answer:
    return Answer(fake_vectors(texts[:-1], 8))


@pytest.mark.parametrize("promise", testing.EMBEDDER_PROMISES, ids=lambda promise: promise.__name__)
def test_the_fake_embedder_passes_the_suite(promise: testing.Promise) -> None:
    asyncio.run(promise(Encoder(fake_space(), FakeEmbedder())))


def test_prefixes_are_added_by_role() -> None:
    embedder = FakeEmbedder()
    encode(["x"], embedder, "document", document_prefix="passage: ", query_prefix="query: ")
    encode(["x"], embedder, "query", document_prefix="passage: ", query_prefix="query: ")
    assert embedder.calls == [["passage: x"], ["query: x"]]


def test_vectors_under_norm_none_are_untouched() -> None:
    encoded = encode(words(3), normalize="none")
    assert (encoded.vectors == fake_vectors(words(3), 8)).all()


def test_unusual_but_sound_vectors_are_normalized_exactly() -> None:
    odd = np.array([[3e30, 4e30], [3e-30, 4e-30], [3, 4]], np.float32)
    assert row_faults(odd) == {}
    assert np.allclose(unit(odd), [[0.6, 0.8]] * 3, atol=1e-6)


def test_an_empty_text_is_rejected_without_being_sent() -> None:
    embedder = FakeEmbedder()
    assert list(encode(["a", "", "b"], embedder).rejected) == [1]
    assert embedder.calls == [["a", "b"]]


def test_long_input_is_split_by_count() -> None:
    embedder = FakeEmbedder(limits=Limits(batch_size=10, concurrency=3))
    encode(words(25), embedder)
    assert sorted(map(len, embedder.calls)) == [5, 10, 10]


def test_long_input_is_split_by_tokens_and_one_huge_text_goes_alone() -> None:
    limits = Limits(batch_size=10, tokens_per_request=100)
    assert [len(part) for part in pack(["x" * 150, "x" * 150, "x" * 90, "x" * 900], limits)] == [1, 2, 1]


@pytest.mark.parametrize(
    ("text", "tokens"),
    [("a plain English sentence of no importance", 8), ("今日は天気がいいですね", 12), ("สวัสดีครับ", 9), ("🙂🙃🙂🙃", 8)],
    ids=["English", "Japanese", "Thai", "emoji"],
)
def test_tokens_are_guessed_on_the_high_side_in_every_script(text: str, tokens: int) -> None:
    assert estimate(text) >= tokens, "as many as cl100k_base makes of it"


def test_a_request_whose_tokens_the_server_disputes_is_packed_again_and_nothing_is_given_up() -> None:
    embedder = Disputing()
    encoded = encode(words(64), embedder)
    assert not encoded.rejected
    assert (encoded.vectors == encode(words(64)).vectors).all()
    assert ["a harmless sentence"] not in embedder.calls, "the texts are not under suspicion"


class Disputing(FakeEmbedder):
    """Takes five texts at once, whatever their tokens were thought to be."""

    async def embed(self, texts: list[str], role: Any) -> Answer:
        if len(texts) > 5:
            self.calls.append(texts)
            raise RequestTooLarge("Requested 600 tokens, max 300 tokens per request")
        return await super().embed(texts, role)


def test_a_wrong_dimension_is_named_with_both_numbers_and_not_asked_again() -> None:
    embedder = FakeEmbedder(dimensions=5)
    with pytest.raises(BadAnswer, match="gave vectors of 5 dimensions, 8 are expected") as caught:
        encode(words(3), embedder)
    assert caught.value.hint
    assert len(embedder.calls) == 1


def test_vectors_are_cut_and_normalized_where_the_space_says_so_and_refused_where_it_does_not() -> None:
    wide = fake_vectors(words(3), 16)
    assert np.allclose(encode(words(3), FakeEmbedder(16), cut=True).vectors, unit(wide[:, :8]))
    with pytest.raises(BadAnswer, match="16 dimensions, 8 are expected") as refused:
        encode(words(3), FakeEmbedder(16))
    assert "cut=True" in (refused.value.hint or "")
    with pytest.raises(BadAnswer, match="4 dimensions, 8 are expected"):
        encode(words(3), FakeEmbedder(4), cut=True)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("query_model", "small"),
        ("query_model", "fake/small@latest"),
        ("roles", {"user": {"task": "q"}}),
        ("roles", {"query": "q"}),
        ("roles", {"query": {"task": {1, 2}}}),
        ("normalize", "none"),
    ],
)
def test_a_space_refuses_what_can_not_be_of_its_roles(field: str, value: Any) -> None:
    with pytest.raises(PlanError):
        fake_space(cut=True, **{field: value})


def test_queries_are_encoded_by_the_query_model_alone() -> None:
    space = fake_space(query_model="fake/@cf/small@2", roles={"query": {"task": "q"}}, weights="sha256:1")
    side = space.query_side
    assert (side.model, side.version, side.weights, side.roles) == ("fake/@cf/small", "2", "", space.roles)
    assert fake_space(query_model="fake/@cf/small").query_side.model == "fake/@cf/small"
    with pytest.raises(EmbedderMisconfigured, match="encoded by fake/@cf/small@2"):
        asyncio.run(Encoder(space, FakeEmbedder()).encode(["a"], "query"))


def test_the_probe_calls_a_wrong_dimension_a_matter_of_configuration() -> None:
    with pytest.raises(EmbedderMisconfigured, match="5 dimensions"):
        asyncio.run(Encoder(fake_space(), FakeEmbedder(dimensions=5)).probe())


def test_the_probe_gives_one_vector() -> None:
    embedder = FakeEmbedder()
    assert asyncio.run(Encoder(fake_space(), embedder).probe()).vectors.shape == (1, 8)
    assert embedder.calls == [[PROBE_TEXT]]


def test_too_few_vectors_are_asked_for_once_more_and_then_are_an_error() -> None:
    once = FakeEmbedder(script=[short])
    assert encode(words(3), once).vectors.shape == (3, 8)
    assert [len(call) for call in once.calls] == [3, 3]
    with pytest.raises(BadAnswer, match="gave 2 vectors for 3 texts"):
        encode(words(3), FakeEmbedder(script=[short, short]))


def test_one_poison_text_is_found_by_halving_and_the_rest_embedded() -> None:
    texts = words(64)
    texts[41] = "POISON"
    embedder = FakeEmbedder(poison="POISON")
    encoded = encode(texts, embedder, normalize="none")
    good = [row for row in range(64) if row != 41]
    assert encoded.rejected == {41: "poison"}
    assert (encoded.vectors[good] == fake_vectors(texts, 8)[good]).all()
    assert len(embedder.calls) <= 2 + 2 * 6  # the batch, the canary, and two halves a level


def test_several_poison_texts_are_all_found() -> None:
    texts = words(32)
    for row in (0, 1, 31):
        texts[row] = f"POISON {row}"
    assert list(encode(texts, FakeEmbedder(poison="POISON")).rejected) == [0, 1, 31]


def test_a_server_that_refuses_a_harmless_text_too_is_misconfigured() -> None:
    refusals = [InputRefused("HTTP 400: no such option")] * 2
    embedder = FakeEmbedder(script=refusals)
    with pytest.raises(EmbedderMisconfigured, match="refuses every text: HTTP 400: no such option"):
        encode(words(64), embedder)
    assert len(embedder.calls) == 2


def test_a_row_that_is_not_finite_once_is_mended_by_asking_once_more_for_it_alone() -> None:
    def glitch(texts: list[str]) -> Answer:
        vectors = fake_vectors(texts, 8)
        vectors[1, 3] = np.inf
        return Answer(vectors)

    embedder = FakeEmbedder(script=[glitch])
    encoded = encode(words(4), embedder, normalize="none")
    assert not encoded.rejected
    assert (encoded.vectors == fake_vectors(words(4), 8)).all()
    assert embedder.calls[1] == ["text 1"]


@pytest.mark.parametrize(("value", "reason"), [(np.nan, "NaN"), (np.inf, "infinity"), (0.0, "zero")])
def test_a_row_that_stays_unusable_is_rejected_with_its_reason(value: float, reason: str) -> None:
    def broken(texts: list[str]) -> Answer:
        vectors = fake_vectors(texts, 8)
        vectors[0] = value
        return Answer(vectors)

    encoded = encode(words(3), FakeEmbedder(script=[broken, broken]))
    assert list(encoded.rejected) == [0]
    assert reason in encoded.rejected[0]
    assert np.isfinite(encoded.vectors[1:]).all()


def test_a_failing_api_is_the_callers_to_see_and_cancels_what_was_under_way() -> None:
    embedder = FakeEmbedder(limits=Limits(4, 1), script=[EmbedderUnavailable("gone")])
    with pytest.raises(EmbedderUnavailable):
        encode(words(40), embedder)
    assert len(embedder.calls) == 1


def test_tokens_are_summed_over_requests() -> None:
    assert encode(words(130)).tokens == 260


def test_weights_other_than_the_pinned_ones_are_refused() -> None:
    Encoder(fake_space(weights="sha256:aa"), FakeEmbedder(weights="sha256:aa")).check()
    with pytest.raises(EmbedderMisconfigured, match="sha256:bb, the space pins sha256:aa"):
        Encoder(fake_space(weights="sha256:aa"), FakeEmbedder(weights="sha256:bb")).check()


def test_an_unknown_provider_is_refused_with_the_known_ones() -> None:
    with pytest.raises(EmbedderMisconfigured) as caught:
        create(Space(collection="docs", model="nobody/model", version="1", dimensions=2))
    assert all(name in (caught.value.hint or "") for name in providers())


def test_the_api_key_is_not_in_the_settings_repr() -> None:
    assert "sk-secret" not in repr(EmbedderSettings(api_key="sk-secret"))


def test_importing_the_registry_imports_no_provider() -> None:
    heavy = "openai", "wordllama", "torch", "sentence_transformers", "tokenizers"
    code = f"import sys, embedmig.embedders.encoder; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_version_pins_up_to_a_dot() -> None:
    assert is_prefix("0.4", "0.4.0.post1")
    assert is_prefix("0.4.0.post1", "0.4.0.post1")
    assert not is_prefix("0.4", "0.40.1")
    assert not is_prefix("0.4.1", "0.4")


def test_an_unknown_price_is_unknown_and_never_zero() -> None:
    small = Space("docs", "openai/text-embedding-3-small", "1", 1536)
    assert prices.cost(small, 1_000_000) == 0.02
    assert prices.cost(small, 1_000_000, EmbedderSettings(price=0.5)) == 0.5
    assert prices.cost(small, 1_000_000, EmbedderSettings(base_url="http://vllm/v1")) is None
    assert prices.cost(small, None) is None
    assert prices.cost(Space("docs", "openai/some-new-model", "1", 8), 1000) is None
    assert prices.cost(Space("docs", "wordllama/l2-supercat", "0.4", 64), None) == 0.0


def test_a_choice_that_did_not_exist_yet_leaves_stored_fingerprints_as_they_are() -> None:
    space = Space("docs", "wordllama/l2-supercat", "0.4", 64)
    assert fingerprint(space, ["title", "body"]) == "40927871d5a03427708b196931c3a7ed551467567dec1ac630a7038692d6b33d"
    assert fingerprint(replace(space, store="qdrant"), ["title", "body"]) == fingerprint(space, ["title", "body"])
    for changes in (
        {"dtype": "float16"},
        {"cut": True},
        {"query_model": "fake/small"},
        {"roles": {"query": {"task": "q"}}},
    ):
        assert fingerprint(replace(space, **changes), ["title", "body"]) != fingerprint(space, ["title", "body"])
    assert replace(space, query_model="fake/small", roles={"query": {"task": "q"}}).tag == space.tag
    assert replace(space, cut=True).tag == f"{space.tag}/cut"
    assert replace(space, roles={"query": {}}) == space


def test_a_dtype_for_a_model_that_takes_none_is_refused() -> None:
    with pytest.raises(EmbedderMisconfigured, match="the space says float16"):
        create(Space("docs", "wordllama/l2-supercat", "0.4", 64, dtype="float16"))


@pytest.mark.parametrize(
    "text",
    [" ", "\u00a0", "\u3000\u3000", "\u200b\u200d\ufeff", " \u2028\u2029\u00ad", "\t\r\n\x0b\x0c", "\ud800 alone"],
    ids=ascii,
)
def test_a_text_of_blanks_in_any_script_or_without_valid_unicode_is_rejected_without_being_sent(text: str) -> None:
    embedder = FakeEmbedder()
    assert list(encode(["a", text, "b"], embedder).rejected) == [1]
    assert embedder.calls == [["a", "b"]]


@pytest.mark.parametrize("text", ["\u200b.", "👩\u200d🚀", "a\u00a0b", "\x01", "\ufffd", "x" + " " * 100])
def test_a_text_with_anything_to_read_in_it_is_sent(text: str) -> None:
    assert not encode([text]).rejected


@pytest.mark.parametrize(
    ("scale", "storage", "reason"),
    [
        (70_000.0, "halfvec", "more than half precision holds (65,504)"),
        (1e-9, "halfvec", "is zero in half precision"),
        (1e-30, "vector", "too small for cosine"),
        (1e30, "vector", "too large for cosine"),
        (70_000.0, "vector", ""),
        (1e-9, "vector", ""),
    ],
)
def test_a_vector_is_held_to_what_its_column_can_store_and_compare(scale: float, storage: Any, reason: str) -> None:
    def odd(texts: list[str]) -> Answer:
        vectors = fake_vectors(texts, 8)
        vectors[1] *= np.float32(scale) / np.abs(vectors[1]).max()
        return Answer(vectors)

    rejected = encode(words(3), FakeEmbedder(script=[odd]), normalize="none", storage=storage).rejected
    assert list(rejected) == ([1] if reason else [])
    assert reason in rejected.get(1, "")


def test_one_text_that_is_too_long_is_sent_apart_and_its_neighbours_together() -> None:
    texts = words(64)
    texts[9] = "long " * 50
    embedder = Strict()
    encoded = encode(texts, embedder, normalize="none")
    assert list(encoded.rejected) == [9]
    good = [row for row in range(64) if row != 9]
    assert (encoded.vectors[good] == fake_vectors(texts, 8)[good]).all()
    assert [len(call) for call in embedder.calls] == [64, 1, 63]


class Strict(FakeEmbedder):
    """Takes no text of more than 100 characters, and says which one is too long."""

    async def embed(self, texts: list[str], role: Any) -> Answer:
        if long := [place for place, text in enumerate(texts) if len(text) > 100]:
            self.calls.append(texts)
            raise TextTooLong("too long", long)
        return await super().embed(texts, role)


def test_a_run_that_lost_its_lock_leaves_no_request_half_done_in_its_loop() -> None:
    left: list[asyncio.Task[None]] = []

    async def superseded() -> None:
        left.append(asyncio.create_task(asyncio.sleep(3600)))
        raise RunSuperseded("the run lock was lost")

    with pytest.raises(RunSuperseded):
        wait_for(superseded())
    assert left[0].cancelled()

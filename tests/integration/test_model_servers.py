"""Servers that are almost OpenAI's: used as they are. What one does not take is found out once, and said once."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedmig.embedders import EmbedderSettings, create
from embedmig.embedders.encoder import Encoded, Encoder
from embedmig.embedders.openai import OpenAIEmbedder
from embedmig.embedders.openai_answers import decode
from embedmig.embedders.refusals import refusal_of
from embedmig.errors import BadAnswer, EmbedderMisconfigured
from embedmig.types import Space

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.openai_server import OpenAIServer, vector

WIDE = 32
SECRET = "sk-a-key-that-nobody-may-see"


def reached(server: OpenAIServer, dimensions: int = WIDE, model: str = "some-model", **settings: Any) -> Encoder:
    space = Space("docs", f"openai/{model}", "1", dimensions)
    given = {"base_url": server.url, "give_up_after": 5.0} | settings
    return Encoder(space, OpenAIEmbedder(space, EmbedderSettings(**given)))


def encode(encoder: Encoder, texts: list[str]) -> Encoded:
    async def main() -> Encoded:
        try:
            return await encoder.encode(texts)
        finally:
            await encoder.embedder.aclose()

    return asyncio.run(main())


def words(count: int) -> list[str]:
    return [f"text {number}" for number in range(count)]


def right(encoded: Encoded, texts: list[str], dimensions: int = WIDE) -> bool:
    raw = np.stack([vector(text, dimensions) for text in texts])
    return np.allclose(encoded.vectors, raw / np.linalg.norm(raw, axis=1, keepdims=True), atol=1e-5)


# --- how much at once -----------------------------------------------------------------------------------------

COUNTS = {
    "TEI": "batch size {n} > maximum allowed batch size {most}",
    "Azure": "Too many inputs. The max number of inputs is {most}. We hope to increase the number of inputs soon.",
    "OpenAI": "Invalid 'input': array too long. Expected an array with maximum length {most}, but got length {n} instead.",
    "Gemini": "* BatchEmbedContentsRequest.requests: at most {most} requests can be in one batch",
    "Cohere": "invalid request: total number of texts must be at most {most} - received {n}",
    "Bedrock": "Malformed input request: #/texts: expected maximum item count: {most}, found: {n}, please reformat",
    "Vertex": "{most} instance(s) is allowed per prediction. Actual: {n}.",
    "Voyage": "The batch size limit is {most}. The batch size of your input is {n}.",
    "FastAPI": "List should have at most {most} items after validation, not {n}",
    "Cloudflare": "Bad input: '/text' must NOT have more than {most} items",
    "Databricks": "Input embeddings size is too large, exceeding {most} limit for this endpoint",
    "Zhipu": "input数组最大不得超过{most}条",
    "Mistral, which names no number": "Too many inputs in request, split into more batches.",
    "one that says nothing at all": "Bad Request",
}


@pytest.mark.parametrize("status", [400, 413, 422])
@pytest.mark.parametrize("wording", COUNTS.values(), ids=COUNTS)
def test_a_limit_of_texts_is_learnt_once_and_kept(wording: str, status: int) -> None:
    texts = words(512)
    with OpenAIServer(dimensions=WIDE, max_inputs=32, said={"inputs": wording}, refusing=status) as server:
        encoder = reached(server, batch_size=256, concurrency=2)
        encode(encoder, words(1))
        assert right(encode(encoder, texts), texts)
        refused = server.stats.refusals
        assert refused <= 8
        assert max(server.stats.seen[text] for text in texts) <= 8
        assert right(encode(encoder, texts), texts)
        assert encoder.limits.batch_size == 32 or ("{most}" not in wording and 16 <= encoder.limits.batch_size < 32)
        assert server.stats.refusals == refused, "what was learnt is kept"
        assert any(f"at most {encoder.limits.batch_size} texts" in notice for notice in encoder.news())
        assert not encoder.news(), "it is said once"


def test_what_is_learnt_of_a_server_holds_for_whoever_asks_it_next_in_this_process() -> None:
    with OpenAIServer(dimensions=WIDE, max_inputs=10) as server:
        encode(reached(server), words(64))
        refused = server.stats.refusals
        encode(reached(server), words(64))
        assert server.stats.refusals == refused


TOO_LONG = {
    "OpenAI": "This model's maximum context length is {most} tokens, however you requested {n} tokens.",
    "OpenAI, with the place": "Invalid 'input[{place}]': maximum context length is {most} tokens.",
    "vLLM": "This model's maximum context length is {most} tokens. However, you requested {n} tokens in the input for "
    "embedding generation. Please reduce the length of the input.",
    "TEI": "`inputs` must have less than {most} tokens. Given: {n}",
    "Ollama": "the input length exceeds the context length",
    "llama.cpp": "input ({n} tokens) is too large to process. increase the physical batch size (current batch size: {most})",
    "llama.cpp, by its context": "request ({n} tokens) exceeds the available context size ({most} tokens), try increasing it",
    "Voyage": "Request to model 'voyage-3' failed. The example at index {place} in your batch has too many tokens and does "
    "not fit into the model's context window of {most} tokens.",
    "Mistral": "Input id {place} has {n} tokens, exceeding max {most} tokens.",
    "Jina": "Single text cannot exceed {most} tokens. {n} tokens given.",
    "Bedrock": "Too many input tokens. Max input tokens: {most}, request input token count: {n}",
}


@pytest.mark.parametrize("wording", TOO_LONG.values(), ids=TOO_LONG)
def test_a_text_that_is_too_long_is_refused_alone_and_its_neighbours_stay_together(wording: str) -> None:
    texts = [f"{number} is a text of ordinary length" for number in range(128)]
    texts[77] = "far too long " * 400
    status = 500 if "llama" in wording or "physical" in wording else 400
    taken = {"max_tokens_per_text": 512, "said": {"text": wording}, "refusing": status}
    with OpenAIServer(dimensions=WIDE, **taken) as server:
        encoder = reached(server, batch_size=128, timeout=3600.0)  # however slow this machine is, requests are full
        encode(encoder, words(1))
        encoded = encode(encoder, texts)
        assert list(encoded.rejected) == [77]
        good = [place for place in range(128) if place != 77]
        assert right(Encoded(encoded.vectors[good]), [texts[place] for place in good])
        assert server.stats.requests <= 8
        assert max(server.stats.seen[texts[place]] for place in good) <= 4, "128, 16, 2, 1: once a round of the search"
        assert encoder.limits.batch_size == 128, "nothing is wrong with the number of texts"


def test_a_limit_of_tokens_is_not_taken_from_a_sentence_about_texts_nor_the_other_way_round() -> None:
    texts = refusal_of(413, {"message": "batch size 256 > maximum allowed batch size 32"})
    assert (texts.of_many_texts, texts.of_many_tokens, texts.most_texts(256)) == (True, False, 32)
    tokens = refusal_of(400, {"error": {"message": "The max allowed tokens per submitted batch is 120000."}})
    assert (tokens.of_many_texts, tokens.of_many_tokens) == (False, True)
    rate = refusal_of(400, "Rate limit: at most 3 requests per minute")
    assert not rate.of_many_texts


# --- how it wants to be asked, and how it answers -----------------------------------------------------------------

ODD: dict[str, dict[str, Any]] = {
    "refuses base64 with 400": {"refuses_format": 400},
    "refuses base64 with 422": {"refuses_format": 422},
    "answers 500 to base64": {"refuses_format": 500},
    "refuses encoding_format, whatever its value": {"strict": True},
    "refuses it, in a list": {"refuses_format": 400, "errors": "list"},
    "refuses it, in an answer of status 200": {"refuses_format": 400, "errors": "answer"},
    "ignores base64": {"floats": True},
    "leaves index out": {"numbered": "none"},
    "numbers every row 0": {"numbered": "zero"},
    "numbers rows from 1": {"numbered": "from one"},
    "leaves usage out": {"usage": "none"},
    "says that nothing was used": {"usage": "zero"},
    "wants the key in api-key": {"key": SECRET, "key_header": "api-key"},
    "wants the key in x-api-key": {"key": SECRET, "key_header": "x-api-key"},
}


@pytest.mark.parametrize("how", ODD.values(), ids=ODD)
def test_a_server_that_is_almost_openais_is_used_as_it_is(how: dict[str, Any]) -> None:
    with OpenAIServer(dimensions=WIDE, **how) as server:
        encoder = reached(server, api_key=SECRET)
        asyncio.run(encoder.probe())
        refused = server.stats.refusals
        for texts in (words(20), words(20), words(1)):
            assert right(encode(encoder, texts), texts)
        assert server.stats.refusals == refused, "the probe found it out, once"
        said = encoder.news()
        assert len(said) == (0 if "floats" in how or "numbered" in how else 1)
        assert SECRET not in str(said)


@pytest.mark.parametrize("suffix", ["", "/", "/v1/", "/v1//", "/v1/embeddings"])
def test_an_address_with_too_little_or_too_much_at_its_end_is_found(suffix: str) -> None:
    with OpenAIServer(dimensions=WIDE, only_below="/v1") as server:
        encoder = reached(server, base_url=server.url.removesuffix("/v1") + suffix)
        assert right(encode(encoder, words(3)), words(3))


@pytest.mark.parametrize("model", ["openai/text-embedding-3-small", "my-deployment", "gemini-embedding-001"])
def test_vectors_that_a_server_can_cut_are_asked_for_as_wide_as_the_space(model: str) -> None:
    with OpenAIServer(dimensions=WIDE, cuts="") as server:
        encoder = reached(server, 8, model)
        assert right(encode(encoder, words(5)), words(5), 8)
        asked = server.stats.requests
        encode(encoder, words(5))
        assert server.stats.requests == asked + 1


def test_a_server_that_refuses_dimensions_for_a_name_that_usually_takes_them_is_asked_without() -> None:
    with OpenAIServer(dimensions=WIDE, cuts="no model at all") as server:
        assert right(encode(reached(server, model="text-embedding-3-small"), words(3)), words(3))


@pytest.mark.parametrize("ignores", [True, False])
def test_vectors_that_are_too_wide_and_not_cut_are_refused_with_both_widths(ignores: bool) -> None:
    how = {"ignores_dimensions": True} if ignores else {"cuts": "no model at all"}
    with (
        OpenAIServer(dimensions=WIDE, **how) as server,
        pytest.raises(BadAnswer, match="32 dimensions, 8 are expected"),
    ):
        encode(reached(server, 8), words(3))


def test_a_provider_of_ones_own_sends_what_its_table_says() -> None:
    space = Space("docs", "gateway/some-model", "1", WIDE)
    settings: dict[str, Any] = {
        "headers": {"x-team": "search", "x-gateway": SECRET}, "header_variables": {"x-gateway": "GATEWAY"},
        "extra_body": {"user": "u"}, "organization": "org-1", "project": "p-1", "kind": "openai", "api_key": "k",
    }  # fmt: skip
    with OpenAIServer(dimensions=WIDE, key="k", poison="POISON") as server:
        encoder = Encoder(space, create(space, EmbedderSettings(base_url=server.url, **settings)))
        assert right(encode(encoder, words(2)), words(2))
        sent = server.stats.headers
        assert (sent["x-team"], sent["x-gateway"], sent["openai-organization"], sent["openai-project"]) == (
            "search", SECRET, "org-1", "p-1",
        )  # fmt: skip
        assert server.stats.options[-1]["user"] == "u"
    unset = EmbedderSettings(base_url=server.url, **settings | {"headers": {"x-gateway": None}})
    with pytest.raises(EmbedderMisconfigured, match="GATEWAY is not set"):
        create(space, unset)
    with pytest.raises(EmbedderMisconfigured, match=r"extra_body of \[embedders.gateway\] has task"):
        create(space, EmbedderSettings(kind="openai", base_url=server.url, extra_body={"task": "x"}))


def test_azures_older_address_is_made_of_deployment_and_version() -> None:
    space = Space("docs", "azure/text-embedding-3-small", "1", WIDE)
    below = "/openai/deployments/my%20emb"
    with OpenAIServer(dimensions=WIDE, key="k", key_header="api-key", only_below=below, cuts="") as server:
        settings = EmbedderSettings(
            kind="openai", base_url=server.url.removesuffix("/v1"), api_key="k", api_version="2024-10-21",
            deployments={"text-embedding-3-small": "my emb"},
        )  # fmt: skip
        encoder = Encoder(space, create(space, settings))
        assert right(encode(encoder, words(2)), words(2))
        assert server.stats.requests == 1, "nothing was tried first"
        assert server.stats.query == "api-version=2024-10-21"
        assert encoder.news() == []


def test_one_vector_for_all_rows_numbered_0_is_no_answer_but_to_equal_texts() -> None:
    rows = b'{"data": [{"index": 0, "embedding": [1, 2]}, {"index": 0, "embedding": [1, 2]}]}'
    with pytest.raises(BadAnswer, match="more than once"):
        decode(rows, 2)
    assert len(decode(rows, 2, alike=True).vectors) == 2


# --- how fast it is -------------------------------------------------------------------------------------------------


def test_a_server_that_does_one_text_at_a_time_is_used_at_that_speed() -> None:
    texts = words(24)
    with OpenAIServer(dimensions=WIDE, seconds_per_text=0.05) as server:
        encoder = reached(server, timeout=0.4, give_up_after=20.0)
        asyncio.run(encoder.probe())
        assert right(encode(encoder, texts), texts)
        assert max(server.stats.slow[1:]) <= 8, "a request that can be answered in time"
        assert len(server.stats.slow) <= 2 * len(texts), "little is asked for in vain"


def test_a_quick_server_is_used_in_full_once_a_small_request_and_a_full_one_are_answered() -> None:
    texts = words(64 + 66 * 160)
    with OpenAIServer(dimensions=WIDE, latency=0.1) as server:
        encoder = reached(server, batch_size=160, concurrency=32)
        assert right(encode(encoder, texts), texts)
        assert server.stats.sizes == {64: 1, 160: 66}, "small at first, then full"
        assert server.stats.most_in_flight == 32
        assert server.stats.alone <= 5, "one small request, two full ones, and twice 32 at once"


def test_a_request_that_was_never_answered_in_time_is_not_repeated_as_it_is() -> None:
    texts = words(16)
    with OpenAIServer(dimensions=WIDE, seconds_per_text=0.1) as server:
        encoder = reached(server, timeout=0.25, give_up_after=30.0)  # without a probe: nothing is known
        assert right(encode(encoder, texts), texts)
        assert server.stats.sizes[16] == 1


# --- keys -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key", [SECRET + "\nx", SECRET + "\u201d", "sk-one sk-two"], ids=["line break", "curly quote", "blank"]
)
def test_a_key_that_no_header_can_hold_is_refused_by_its_variable_and_not_shown(key: str) -> None:
    with OpenAIServer() as server, pytest.raises(EmbedderMisconfigured, match="API key in MY_KEY has") as caught:
        reached(server, api_key=key, api_key_variable="MY_KEY")
    assert key not in f"{caught.value.message} {caught.value.hint}"

"""Other APIs through litellm, the real package, against doubles that speak Cohere's and Voyage's protocols."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from embedmig import testing
from embedmig.embedders import EmbedderSettings, create
from embedmig.embedders.encoder import Encoded, Encoder
from embedmig.embedders.litellm import LiteLLM
from embedmig.embedders.pacing import Pacer, Policy
from embedmig.errors import EmbedderMisconfigured, EmbedderUnavailable
from embedmig.planning.prices import find_price
from embedmig.types import Role, Space
from tests.doubles.cohere import CohereServer
from tests.openai_server import OpenAIServer, vector

pytestmark = [
    pytest.mark.one_server,
    pytest.mark.skipif(
        importlib.util.find_spec("litellm") is None, reason="the extra litellm is not installed: make test LOCAL=1"
    ),
]
QUICK = Policy(base=0.001, cap=0.002, faults=3, give_up_after=0.5)
PATIENT = Policy(base=0.001, cap=0.002, give_up_after=30.0)
ROLES: Any = {"document": {"input_type": "search_document"}, "query": {"input_type": "search_query"}}
REACHED: set[str] = set()
"""The hosts that were looked up or connected to while a test of this file ran."""


@pytest.fixture(scope="module", autouse=True)
def hosts() -> Iterator[None]:
    """Notes them, from before the package is imported; a hook can't be taken away again."""
    watching = True

    def note(event: str, arguments: Any) -> None:
        if watching and event == "socket.getaddrinfo":
            REACHED.add(str(arguments[0]))

    sys.addaudithook(note)
    yield
    watching = False


@pytest.fixture
def cohere() -> Iterator[CohereServer]:
    with CohereServer(key="co-right") as server:
        yield server


def space(model: str = "cohere/embed-v4.0", dimensions: int = 256, **changes: Any) -> Space:
    return Space("docs", model, "2025-04", dimensions, **({"roles": ROLES} | changes))


def reached(server: OpenAIServer, wanted: Space | None = None, policy: Policy = PATIENT, **settings: Any) -> Encoder:
    wanted = wanted or space()
    given = EmbedderSettings(**({"kind": "litellm", "base_url": server.url, "api_key": "co-right"} | settings))
    return Encoder(wanted, LiteLLM(wanted, given, Pacer(concurrency=4, policy=policy)))


def encode(encoder: Encoder, texts: list[str], role: Role = "document") -> Encoded:
    async def main() -> Encoded:
        try:
            return await encoder.encode(texts, role)
        finally:
            await encoder.embedder.aclose()

    return asyncio.run(main())


def words(count: int) -> list[str]:
    return [f"text {number}" for number in range(count)]


def right(encoded: Encoded, texts: list[str], width: int = 256) -> bool:
    raw = np.stack([vector(text, width) for text in texts])
    return bool(np.allclose(encoded.vectors, raw / np.linalg.norm(raw, axis=1, keepdims=True), atol=1e-5))


@pytest.mark.parametrize("promise", testing.EMBEDDER_PROMISES, ids=lambda promise: promise.__name__)
def test_litellm_passes_the_suite(promise: testing.Promise, cohere: CohereServer) -> None:
    asyncio.run(promise(reached(cohere, batch_size=40)))


def test_nothing_but_the_server_is_reached_nothing_is_printed_and_no_env_file_is_read(
    cohere: CohereServer, capfd: pytest.CaptureFixture[str], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text("READ_BY_LITELLM=1\n")
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert right(encode(reached(cohere), words(3)), words(3))
    with pytest.raises(EmbedderMisconfigured):
        encode(reached(cohere, space("nosuch/model")), words(1))
    said = capfd.readouterr()
    assert (said.out, said.err) == ("", "")
    assert not REACHED - {"127.0.0.1"}
    assert "READ_BY_LITELLM" not in os.environ


def test_what_is_sent_is_what_space_and_table_say(cohere: CohereServer) -> None:
    given: dict[str, Any] = {"extra_body": {"priority": 3}, "headers": {"x-team": "search"}}
    encode(reached(cohere, **given), ["a"])
    assert encode(reached(cohere, **given), ["a"], "query").tokens == 1
    sent = [{"input_type": kind, "priority": 3} for kind in ("search_document", "search_query")]
    assert cohere.stats.options == sent
    assert cohere.stats.headers["x-team"] == "search"
    assert cohere.stats.headers["authorization"] == "Bearer co-right"
    with pytest.raises(EmbedderMisconfigured, match="has no input_type"):
        reached(cohere, space(roles={}))
    with pytest.raises(EmbedderMisconfigured, match=r"extra_body of .* has input_type, which shapes the vectors"):
        reached(cohere, extra_body={"input_type": "image"})


def test_fewer_dimensions_are_asked_for_where_the_first_vectors_are_longer() -> None:
    wanted = space("voyage/voyage-4", 64, roles={})
    with OpenAIServer(cuts="voyage") as server:
        encoded = encode(reached(server, wanted), words(3))
        assert encoded.vectors.shape == (3, 64)
        assert server.stats.options == [{}, {"output_dimension": 64}], "in Voyage's own words"
    with (
        OpenAIServer(ignores_dimensions=True) as server,
        pytest.raises(EmbedderMisconfigured, match="256 dimensions, 64 are expected"),
    ):
        asyncio.run(reached(server, wanted).probe())


def test_the_limits_of_a_server_are_learnt_from_what_it_says(cohere: CohereServer) -> None:
    encoder = reached(cohere)
    encode(encoder, words(70))
    assert right(encode(encoder, words(500)), words(500))
    assert encoder.limits.batch_size == 96
    refused = cohere.stats.refusals
    encode(encoder, words(300))
    assert cohere.stats.refusals == refused >= 1


def test_a_text_at_fault_is_passed_by_with_the_servers_reason() -> None:
    with CohereServer(
        poison="POISON", max_tokens_per_text=500, said={"text": "too many tokens: maximum context length is {most}"}
    ) as server:
        encoder = reached(server)
        encode(encoder, words(20))
        encoded = encode(encoder, ["POISON", *words(9), "long " * 1000])
        assert list(encoded.rejected) == [0, 10]
        assert "HTTP 400: an input was rejected" in encoded.rejected[0]
        assert "maximum context length is 500" in encoded.rejected[10]


def test_throttling_and_faults_are_waited_out_and_late_answers_make_requests_smaller() -> None:
    faults: list[dict[str, Any]] = [{"status": 429, "retry_after": 0.01}, {"status": 503}, {"status": 500}]
    with CohereServer(script=faults) as server:
        assert right(encode(reached(server), words(3)), words(3))
        assert server.stats.requests == 4
    with OpenAIServer(seconds_per_text=0.02) as server:
        slow = reached(server, space("voyage/voyage-4", roles={}), timeout=0.4, batch_size=64)
        assert right(encode(slow, words(64)), words(64))
        assert max(server.stats.slow) > 19, "a request that is late"
        assert min(server.stats.slow) < 19


def test_what_can_not_be_mended_by_waiting_ends_the_run_and_shows_no_key(cohere: CohereServer) -> None:
    with pytest.raises(EmbedderMisconfigured, match="does not accept the key it was given") as caught:
        encode(reached(cohere, api_key="co-very-secret"), words(2))
    assert "very-secret" not in f"{caught.value.message} {caught.value.hint}"
    with CohereServer(models=("other",)) as server, pytest.raises(EmbedderMisconfigured, match="HTTP 404"):
        encode(reached(server), words(2))
    with pytest.raises(EmbedderMisconfigured, match=r"nosuch/model: litellm says: .*Provider NOT provided"):
        encode(reached(cohere, space("nosuch/model")), words(2))
    url = cohere.url.replace(str(cohere.port), "9")
    with pytest.raises(EmbedderUnavailable, match="Cannot connect to host"):
        encode(reached(cohere, policy=QUICK, base_url=url), words(2))


def test_a_model_is_named_by_its_provider_behind_litellm_or_by_a_deployment(cohere: CohereServer) -> None:
    for model, more in (("litellm/cohere/embed-v4.0", {}), ("ours/v4", {"deployment": "cohere/embed-v4.0"})):
        settings = EmbedderSettings(
            kind="litellm",
            base_url=cohere.url,
            api_key="co-right",
            deployments={"": more["deployment"]} if more else {},
        )
        assert right(encode(Encoder(space(model), create(space(model), settings)), words(2)), words(2))


def test_prices_are_those_of_the_packages_list_where_it_names_a_source() -> None:
    known = find_price(space(), EmbedderSettings(kind="litellm"))
    assert (known.per_million, "cohere.com" in known.origin) == (0.12, True)
    wrong = find_price(space("cohere/embed-multilingual-light-v3.0"), EmbedderSettings(kind="litellm"))
    assert wrong.per_million is None, "the list says 100 dollars, and no source"
    assert find_price(space(), EmbedderSettings(kind="litellm", base_url="http://localhost")).per_million is None
    assert find_price(space(), EmbedderSettings(kind="litellm", price=0.5)).per_million == 0.5

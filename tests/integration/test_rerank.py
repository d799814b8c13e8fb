"""Re-ranking reads: the active version recalls, another one ranks, and what it lacks is embedded once and kept."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

import embedmig
from embedmig import AsyncReader, EmbedderSettings, Hits, Reader, embedders
from embedmig.errors import EmbedderUnavailable, UsageError
from embedmig.testing import FakeEmbedder
from embedmig.testing.fake_embedder import fake_vectors
from embedmig.types import Answer, Role, Space
from tests.in_process import Fake, tag
from tests.integration.test_privileges import url_of
from tests.project import CONFIG, OLD_TAG, Project
from tests.waiting import wait_until

NEW = tag()
MADE = "from embedmig import Space, op\n\nrevision = '0002'\ndown_revision = '0001'\n\nNEW = Space(collection='docs', model='fake/hash', version='1', dimensions=8{more})\n\n\ndef upgrade() -> None:\n    op.create_space(NEW)\n\n\ndef downgrade() -> None:\n    pass\n"
FILLED = "from embedmig import Space, op\n\nrevision = '0003'\ndown_revision = '0002'\n\nNEW = Space(collection='docs', model='fake/hash', version='1', dimensions=8)\n\n\ndef upgrade() -> None:\n    op.backfill(NEW)\n    op.gate(NEW, completeness=1.0)\n    op.flip_alias('docs', to=NEW)\n\n\ndef downgrade() -> None:\n    op.flip_alias('docs', to='{old}')\n"


@dataclass
class Model(Fake):
    """The new model: it can be held while it embeds documents, or be down."""

    free: threading.Event = field(default_factory=threading.Event)
    down: bool = False

    def create(self, space: Space, _settings: object) -> FakeEmbedder:
        model = self

        class Held(FakeEmbedder):
            async def embed(self, texts: list[str], role: Role) -> Answer:
                if model.down:
                    raise EmbedderUnavailable("nobody answers")
                if role == "document":
                    await asyncio.to_thread(model.free.wait)
                return await super().embed(texts, role)

        self.made.append(Held(space.dimensions))
        return self.made[-1]

    @property
    def documents(self) -> dict[str, int]:
        """How often each document was asked for."""
        return {text: times for text, times in self.seen.items() if " on the " in text.replace("\n\n", " ")}


@pytest.fixture
def model() -> Iterator[Model]:
    made = Model()
    made.free.set()
    made.register()
    yield made
    made.free.set()
    embedders._REGISTERED.pop("fake", None)


@pytest.fixture
def first_day(project: Project, model: Model) -> Project:
    """The alias shows wordllama; the space of another model is there, and empty."""
    project.documents(60)
    project.space_script("0001")
    project.script("0002_new.py", MADE.format(more=""))
    embedmig.upgrade(project.opened())
    return project


def expected(project: Project, question: str, candidates: list[tuple[str, ...]], k: int) -> list[str]:
    """The candidates' keys by the new model's own distances, computed here."""
    texts = dict(project.rows("select id::text, concat_ws(E'\\n\\n', title, body) from documents"))
    keys = [key[0] for key in candidates]
    vectors = fake_vectors([texts[key] for key in keys], 8)
    query = fake_vectors([question], 8)[0]
    cosines = vectors @ query / np.linalg.norm(vectors, axis=1) / np.linalg.norm(query)
    return [keys[n] for n in np.argsort(-cosines, kind="stable")[:k]]


def keys(hits: Hits) -> list[str]:
    return [hit.key_text[0] for hit in hits]


def test_on_the_first_day_the_old_version_recalls_and_the_new_one_ranks_and_reading_fills_its_space(
    first_day: Project, model: Model
) -> None:
    with Reader(first_day.url, "docs") as plain, Reader(first_day.url, "docs", rerank=NEW, depth=20) as reader:
        for question in ("shock wave", "buckling of a shell"):
            recalled = plain.search(question, 20)
            found = reader.search(question, 5, budget_ms=20_000)
            assert keys(found) == expected(first_day, question, [hit.key_text for hit in recalled], 5)
            assert (found.served_by, found.recalled_by, found.why) == (NEW, OLD_TAG, "")
            assert (found.candidates, found.missing, found.budget_ended) == (20, 0, False)
            assert {hit.version for hit in found} == {NEW}
            assert found[0].columns == recalled[[hit.key for hit in recalled].index(found[0].key)].columns
            asked = model.seen.total()
            assert reader.search(question, 5) == found, "all is there now"
            assert model.seen.total() == asked + 1, "the query alone"
        assert reader.search("shock wave", 5, rerank=False) == plain.search("shock wave", 5)
    read = set(model.documents)
    first_day.script("0003_fill.py", FILLED.format(old=OLD_TAG))
    embedmig.upgrade(first_day.opened())
    assert set(model.documents.values()) == {1}, "what was read was not paid again"
    assert 20 < len(read) <= 40 < len(model.documents) == 60
    counted = first_day.rows("select reads, reranked, candidates, texts, budget_ended from embedmig.read_counts")
    assert counted == [(4, 4, 80, len(read), 0)]
    with Reader(first_day.url, "docs", rerank=NEW) as reader:
        assert reader.search("shock wave").served_by == NEW, "the alias shows it itself"
        assert reader.search("shock wave").candidates == 0


def test_when_the_budget_ends_the_old_order_is_served_and_the_rest_comes_in_once(
    first_day: Project, model: Model
) -> None:
    options: dict[str, Any] = {"rerank": NEW, "depth": 10, "budget_ms": 30}
    with Reader(first_day.url, "docs") as plain, Reader(first_day.url, "docs", **options) as reader:
        usual = plain.search("shock wave", 5)
        reader.search("shock wave", 5, rerank=False)
        model.free.clear()
        began = time.monotonic()
        found = reader.search("shock wave", 5)
        took = time.monotonic() - began
        assert found == usual
        assert (found.served_by, found.missing, found.budget_ended) == (OLD_TAG, 10, True)
        assert took < 5, "it did not wait for the model"
        readers = [threading.Thread(target=ask, args=(first_day.url, options)) for _ in range(4)]
        for one in readers:
            one.start()
        for one in readers:
            one.join()
        model.free.set()
        wait_until(lambda: first_day.one(f"select count(*) from embedmig.{table(first_day)}") == 10, "ten rows")
        assert reader.search("shock wave", 5, budget_ms=20_000).served_by == NEW
    assert set(model.documents.values()) == {1}, "five readers asked for the same rows"
    assert first_day.one("select count(*) from embedmig.pending_changes") == 0


def ask(url: str, options: dict[str, Any]) -> None:
    with Reader(url, "docs", **options) as reader:
        reader.search("shock wave", 5)


def table(project: Project) -> str:
    return str(project.one(f"select table_name from embedmig.spaces where version = '{NEW}'"))


def test_a_model_that_is_down_changes_no_answer_and_is_warned_of_once(
    first_day: Project, model: Model, caplog: pytest.LogCaptureFixture
) -> None:
    with Reader(first_day.url, "docs") as plain, Reader(first_day.url, "docs", rerank=NEW) as reader:
        usual = plain.search("shock wave", 5)
        model.down = True
        with caplog.at_level(logging.WARNING):
            for _ in range(3):
                found = reader.search("shock wave", 5)
                assert found == usual
                assert found.served_by == OLD_TAG
                assert found.why
    assert [record.name for record in caplog.records] == ["embedmig.rerank"]
    with Reader(first_day.url, "docs", rerank="no/such-version") as reader:
        assert reader.search("shock wave", 5) == usual


def test_an_edited_row_is_ranked_by_its_new_text_and_a_deleted_one_is_not_found(
    first_day: Project, model: Model
) -> None:
    with Reader(first_day.url, "docs", rerank=NEW, depth=20, budget_ms=20_000) as reader, first_day.connect() as conn:
        first = reader.search("shock wave", 20)
        edited, deleted = first[0].key[0], first[1].key[0]
        conn.execute("update documents set body = 'on the shock wave anew' where id = %s", (edited,))
        conn.execute("delete from documents where id = %s", (deleted,))
        found = reader.search("shock wave", 20)
        assert found.served_by == NEW
        assert found.embedded <= 2, "the edited one, and one that is recalled instead of the deleted one"
        assert deleted not in [hit.key[0] for hit in found]
        assert keys(found) == expected(first_day, "shock wave", [hit.key_text for hit in found], 20)


def test_rows_beyond_max_texts_and_rows_that_the_model_refuses(first_day: Project, model: Model) -> None:
    with Reader(first_day.url, "docs", rerank=NEW, depth=10, budget_ms=20_000, max_texts=6) as reader:
        found = reader.search("shock wave", 3)
        assert (found.served_by, found.missing) == (OLD_TAG, 10)
        assert first_day.one("select count(*) from embedmig.hot_rows") == 4, "a backfill takes them first"
        wait_until(lambda: len(model.documents) == 6, "six texts")
        wait_until(lambda: reader.search("shock wave", 3).served_by == NEW, "the other four")
        asked = len(model.documents)
        with pytest.raises(UsageError, match="depth"):
            reader.search("shock wave", depth=0)
        assert len(model.documents) == asked
    asyncio.run(asynchronously(first_day))


async def asynchronously(project: Project) -> None:
    async with AsyncReader(project.url, "docs", rerank=NEW, rerank_for={"id": [3]}) as reader:
        assert (await reader.search("shock wave", 3)).served_by == OLD_TAG
        assert (await reader.search("shock wave", 3, where={"id": 3}, budget_ms=20_000)).served_by == NEW
        assert (await reader.search("shock wave", 3, rerank=True, depth=10)).served_by == NEW


def test_a_role_that_only_reads_re_ranks_what_is_there(first_day: Project, model: Model) -> None:
    with Reader(first_day.url, "docs", rerank=NEW, depth=5, budget_ms=20_000) as reader:
        assert reader.search("shock wave", 3).served_by == NEW
    role = "reads_" + table(first_day)[-8:]
    with first_day.connect() as conn:
        conn.execute(f"create role {role} login")
        conn.execute(f"grant usage on schema embedmig to {role}")
        conn.execute(f"grant select on all tables in schema embedmig, public to {role}")
    try:
        with Reader(url_of(first_day, role), "docs", rerank=NEW, depth=5) as reader:
            assert reader.search("shock wave", 3).served_by == NEW
            other = reader.search("panel flutter of a cone", 3)
            assert (other.served_by, other.missing > 0) == (OLD_TAG, True)
            wait_until(
                lambda: reader.search("panel flutter of a cone", 3).why == "its vectors can't be made now", "a no"
            )
            assert reader.search("shock wave", 3).served_by == NEW
    finally:
        with first_day.connect() as conn:
            conn.execute(f"drop owned by {role}")
            conn.execute(f"drop role {role}")


@pytest.mark.parametrize("more", [", chunk={'size': 12}", ", store='near'"], ids=["in chunks", "in a store"])
def test_the_new_version_may_be_cut_into_chunks_or_in_a_store(project: Project, model: Model, more: str) -> None:
    file = project.folder / "near.db"
    project.configure(CONFIG, f'\n[stores.near]\nkind = "memory"\nurl = "{file}"\ngive_up_after = "1s"\n')
    project.documents(20)
    project.space_script("0001")
    project.script("0002_new.py", MADE.format(more=more))
    embedmig.upgrade(project.opened())
    found = embedmig.search(project.opened(), "docs", "shock wave", 20, rerank="fake-hash")
    assert found.version.startswith("fake-hash@1/dim-8"), found.why
    assert found.recalled_by == OLD_TAG
    shown = embedmig.search(project.opened(), "docs", "shock wave", 20, version=found.version)
    assert {hit.key for hit in found.hits} == {hit.key for hit in shown.hits}
    assert {hit.end is None for hit in found.hits} == {"chunk" not in more}
    assert [hit.distance for hit in found.hits] == pytest.approx([hit.distance for hit in shown.hits], abs=1e-6)


def test_what_readers_ask_for_ends_at_max_cost(first_day: Project, model: Model) -> None:
    settings = {"fake": EmbedderSettings(price=1000.0, max_cost=0.1)}
    with Reader(first_day.url, "docs", rerank=NEW, depth=5, budget_ms=20_000, settings=settings) as reader:
        assert reader.search("shock wave", 3).served_by == NEW
        found = reader.search("panel flutter of a cone", 3)
        assert (found.served_by, found.missing > 0) == (OLD_TAG, True)
    assert 0 < first_day.one("select sum(cost) from embedmig.read_counts") <= 0.1

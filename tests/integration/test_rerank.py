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
from embedmig.database.registry import Registry
from embedmig.errors import EmbedderMisconfigured, EmbedderUnavailable, UsageError
from embedmig.quality.bridge_table import BridgeTable
from embedmig.reading.rerank import Reranker
from embedmig.testing import FakeEmbedder
from embedmig.testing.fake_embedder import fake_vectors
from embedmig.types import Answer, Role, Space
from tests.in_process import Fake, tag
from tests.integration.test_privileges import url_of
from tests.project import CONFIG, OLD_TAG, WORDS, Project, wordllama_vectors
from tests.project import NEW_TAG as WIDE_TAG
from tests.waiting import wait_until

pytestmark = pytest.mark.with_ledger

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
        begin = Reranker.begin

        def flip_meanwhile(self: Reranker, *arguments: Any) -> Any:
            read = begin(self, *arguments)
            embedmig.downgrade(first_day.opened(), "-1")
            return read

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(Reranker, "begin", flip_meanwhile)
            found = reader.search("shock wave", rerank=OLD_TAG)
        assert {hit.version for hit in found} == {found.served_by} == {OLD_TAG}


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


@pytest.mark.parametrize(
    ("old", "more"), [("", ", chunk={'size': 12}"), ("", ", store='near'"), ("store='near'", ", store='near'")],
    ids=["in chunks", "in a store", "both in a store"],
)  # fmt: skip
def test_the_new_version_may_be_cut_into_chunks_or_in_a_store(
    project: Project, model: Model, old: str, more: str
) -> None:
    file = project.folder / "near.db"
    config = CONFIG.replace("alias = ", "where = \"body not like '%~%s'\"\nalias = ")
    project.configure(config, f'\n[stores.near]\nkind = "memory"\nurl = "{file}"\ngive_up_after = "1s"\n')
    project.documents(20)
    project.space_script("0001", more=old)
    project.script("0002_new.py", MADE.format(more=more))
    embedmig.upgrade(project.opened())
    found = embedmig.search(project.opened(), "docs", "shock wave", 20, rerank="fake-hash")
    assert found.version.startswith("fake-hash@1/dim-8"), found.why
    assert found.recalled_by == OLD_TAG + ("/on-near" if old else "")
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


# --- measured ---------------------------------------------------------------------------------------------------


def test_re_ranking_is_measured_on_a_golden_set_and_opens_no_gate(first_day: Project, model: Model) -> None:
    judged = [("shock wave", "5"), ("panel flutter", "11"), ("a cone in a wind tunnel", "7")]
    first_day.folder.joinpath("evals").mkdir()
    lines = [f"- {{query: {query}, relevant: [{key}]}}\n" for query, key in judged]
    first_day.folder.joinpath("evals/docs.yaml").write_text("".join(lines))
    found = embedmig.evaluate(first_day.opened(), "docs", rerank=NEW, depths=[5, 20])
    with Reader(first_day.url, "docs") as plain:
        recalled = {query: [hit.key_text for hit in plain.search(query, 20)] for query, _ in judged}
    for one, depth in zip(found.evaluations, (5, 20), strict=True):
        assert (one.version, one.recalled_by, one.depth) == (NEW, OLD_TAG, depth)
        ranked = {query: expected(first_day, query, recalled[query][:depth], 10) for query, _ in judged}
        gains = [1 / np.log2(ranked[q].index(key) + 2) if key in ranked[q] else 0 for q, key in judged]
        assert one.metrics["ndcg@10"]["value"] == pytest.approx(np.mean(gains))
        texts = len({key for query, _ in judged for key in recalled[query][:depth]})
        assert one.metrics["texts"]["value"] == pytest.approx(texts / 3)
    assert set(model.documents.values()) == {1}
    assert embedmig.evaluate(first_day.opened(), "docs", rerank=NEW, depths=[20]).notices == []
    compared = embedmig.compare(first_day.opened(), "docs", OLD_TAG, NEW, depth=20)
    assert compared.comparison.new_ndcg == pytest.approx(found.evaluations[1].metrics["ndcg@10"]["value"])

    space = embedmig.status(first_day.opened()).collections["docs"].spaces[1]
    assert (space.evals, space.partial_evals) == ({}, None), "re-ranking says nothing of the version alone"
    assert space.rerank is not None
    assert space.rerank["texts"] == len(model.documents)
    with Reader(first_day.url, "docs", rerank=NEW, depth=20) as reader:
        assert reader.search("shock wave").served_by == NEW
    printed = first_day.run("status").stdout
    assert "re-ranked 100.0 % of 1 read, 100.0 % of candidates found" in " ".join(printed.split())
    assert 'embedmig_rerank_found{collection="docs"' in first_day.run("status", "--format", "prometheus").stdout
    first_day.script("0003_fill.py", FILLED.format(old=OLD_TAG))
    assert "reads/s as counted" in " ".join(first_day.run("plan").stdout.split())
    evidence = embedmig.gather_report(first_day.opened()).evidence["docs"]
    assert [(one.depth, one.recalled_by) for one in evidence.reranked] == [(20, OLD_TAG), (5, OLD_TAG)]
    assert first_day.run("eval", "docs", "--rerank", NEW, "--depth", "0", expect=2).stderr


# --- bridges ----------------------------------------------------------------------------------------------------


def test_a_bridge_is_fitted_measured_and_kept_for_its_pair_alone(project: Project) -> None:
    with project.connect() as conn:
        conn.execute("create table documents (id bigint primary key, title text, body text)")
        rows = [
            (n, f"{WORDS[n % 14]} {n}", f"a {WORDS[n % 5]} on the {WORDS[n * n % 11]} {n % 37}") for n in range(1_300)
        ]
        conn.cursor().executemany("insert into documents values (%s, %s, %s)", rows)
    project.two_spaces()
    embedmig.upgrade(project.opened())
    found = embedmig.bridge(project.opened(), "docs", WIDE_TAG, OLD_TAG)
    texts = [f"{title}\n\n{body}" for _, title, body in rows]
    wide, narrow = wordllama_vectors(texts, 256), wordllama_vectors(texts, 64)
    with project.connect() as conn:
        stored = conn.execute("select method, rows, matrix from embedmig.bridges").fetchone()
    assert stored is not None
    matrix = np.frombuffer(stored[2], "<f4").reshape(256, 64)
    assert (stored[0], stored[1], found.stored) == (found.fits[0]["method"], 1_300, True)
    cosines = np.einsum("ij,ij->i", wide @ matrix, narrow) / np.linalg.norm(wide @ matrix, axis=1)
    assert cosines.mean() > 0.95, "64 dimensions are the first of 256"
    assert (found.answer, found.options) == (None, [])
    golden = project.folder / "golden.yaml"
    golden.write_text("".join(f"- {{query: '{rows[n][2]}', relevant: [{n}]}}\n" for n in range(0, 90, 9)))
    judged = embedmig.bridge(project.opened(), "docs", WIDE_TAG, OLD_TAG, golden_set=golden)
    assert [one.name for one in judged.options] == [
        "stay", "bridge", "bridge, 50 re-ranked", "ridge, for comparison", "new",
    ]  # fmt: skip
    assert judged.answer in ("pays", "does not pay", "can't tell")
    assert judged.options[4].value == pytest.approx(
        embedmig.evaluate(project.opened(), "docs", WIDE_TAG, golden_set=golden, exact_only=True)
        .evaluations[0]
        .value("ndcg@10")
    )
    rescued(project)
    with project.connect() as conn:
        records = {one.version: one for one in Registry("embedmig").spaces(conn)}
        table, wide_record, target = BridgeTable("embedmig"), records[WIDE_TAG], records[OLD_TAG]
        assert table.matrix(conn, wide_record, target.id, target.fingerprint)[1].shape == (256, 64)
        with pytest.raises(UsageError, match="another pair"):
            table.matrix(conn, wide_record, target.id, "another fingerprint")
        with pytest.raises(UsageError, match="no bridge") as none_yet:
            table.matrix(conn, target, wide_record.id, wide_record.fingerprint)
        assert none_yet.value.hint == f"embedmig bridge docs --from {OLD_TAG} --to VERSION fits one"
        conn.execute("delete from documents where id > 900")
    embedmig.sync(project.opened())
    assert "at least 1,000" in project.run("bridge", "docs", "--from", WIDE_TAG, "--to", OLD_TAG, expect=2).stderr


def rescued(project: Project) -> None:
    """The model of the version of 64 dimensions is gone; the alias goes back to that version none the less."""
    own = embedmig.search(project.opened(), "docs", "shock wave", 100, version=OLD_TAG).hits
    with project.connect() as conn:
        conn.execute(f"update embedmig.spaces set weights = 'sha256:gone' where version = '{OLD_TAG}'")
    told = " ".join(project.run("status").stdout.split())
    assert "depends on the bridge from" in told, "while it is only kept"
    embedmig.downgrade(project.opened(), "-1")
    with Reader(project.url, "docs", bridge=WIDE_TAG) as reader:
        found = reader.search("shock wave", 5)
        assert (found.served_by, found.bridged_from) == (OLD_TAG, WIDE_TAG)
        assert found.loss.startswith("nDCG@10 changes by")
        assert len({hit.key for hit in found} & {hit.key for hit in own}) >= 3
    with Reader(project.url, "docs", bridge="another") as reader:
        with pytest.raises(UsageError, match="is not there") as unknown:
            reader.search("shock wave")
        assert unknown.value.hint == f"embedmig bridge docs --from VERSION --to {OLD_TAG}, while both models answer"
    with Reader(project.url, "docs") as reader, pytest.raises(EmbedderMisconfigured, match="weights"):
        reader.search("shock wave")
    with Reader(project.url, "docs", rescue=True) as reader:
        assert reader.search("shock wave", 5) == found
    project.configure(CONFIG.replace("alias = ", "rescue = true\nalias = "))
    assert "through a bridge from" in " ".join(project.run("search", "docs", "shock wave").stdout.split())
    with project.connect() as conn:
        conn.execute(
            "update embedmig.spaces s set weights = o.weights from embedmig.spaces o where s.weights = 'sha256:gone' and o.weights <> s.weights"
        )

"""Choosing before building: models beside each other on a sample, without a row written to the database."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import yaml

import embedmig
from embedmig import UsageError, embedders
from embedmig.testing import FakeEmbedder
from embedmig.testing.fake_embedder import fake_vectors
from tests.acceptance.test_corpora import DATA, load
from tests.in_process import Fake, space_script, tag
from tests.project import NEW_TAG, OLD_TAG, Project

pytestmark = pytest.mark.one_server

DOCUMENTS = 400


@pytest.fixture
def cranfield(project: Project) -> Project:
    """Some of Cranfield, live at 64 dimensions; a revision for 256 is there."""
    load(project, "cranfield", DOCUMENTS)
    project.two_spaces()
    embedmig.upgrade(project.opened(), "0001")
    return project


def changes(project: Project) -> int:
    """Rows that anybody wrote to any table."""
    return project.one("select sum(n_tup_ins + n_tup_upd + n_tup_del) from pg_stat_user_tables")


def test_what_is_tried_is_what_the_finished_migration_has_and_costs_nothing_the_second_time(
    cranfield: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, qrels = cranfield.opened(), DATA / "cranfield" / "qrels.tsv"
    relations = cranfield.rows("select oid from pg_class order by 1")
    candidates = ["wordllama/l2-supercat@0.4/256", "wordllama/l2-supercat@0.4", "wordllama/no-such-model@0.4/64"]
    found = embedmig.try_models(project, "docs", candidates, golden_set=qrels)
    assert not any("index" in said for said in found.notices)
    assert cranfield.rows("select oid from pg_class order by 1") == relations
    assert (found.live, found.sample, found.rows) == (OLD_TAG, DOCUMENTS, DOCUMENTS)
    assert [(one.dimensions, one.storage, one.cut) for one in found.trials] == [
        *2 * [(256, "vector", False), (256, "halfvec", False), (128, "vector", True), (64, "vector", True)], (64, "vector", False),
    ]  # fmt: skip
    wide, half, _, narrow = found.trials[:4]
    assert "carries no model" in found.trials[-1].error

    embedmig.upgrade(project)
    made = {
        one.version: one for one in embedmig.evaluate(project, "docs", golden_set=qrels, exact_only=True).evaluations
    }
    for trial, measured in ((wide, made[wide.version]), (narrow, made[OLD_TAG])):
        for name, values in trial.scores.items():
            assert values["value"] == pytest.approx(measured.metrics[name]["value"], abs=0.002), name
    assert found.live_scores["ndcg@10"]["value"] == pytest.approx(made[OLD_TAG].metrics["ndcg@10"]["value"], abs=0.002)
    assert wide.difference is not None
    assert wide.difference["value"] == pytest.approx(
        wide.scores["ndcg@10"]["value"] - found.live_scores["ndcg@10"]["value"]
    )
    assert (wide.probability_better or 0) > 0.95 > 0.6 > (narrow.probability_better or 0)
    assert wide.cost == 0.0
    assert (wide.seconds or 0) > 0
    assert (half.table_bytes or 0) < 0.7 * (wide.table_bytes or 0)
    assert wide.index_recall["200"] >= wide.index_recall["40"] > 0.8
    assert {"p50", "p95"} == set(wide.model_ms) == set(wide.search_ms)

    def refuse(*_: object) -> None:
        raise AssertionError("a model was called")

    monkeypatch.setattr("embedmig.quality.embedding_cache.EmbeddingCache._embed", refuse)
    monkeypatch.setattr("embedmig.quality.embedding_cache.EmbeddingCache._ask", refuse)
    again = embedmig.try_models(project, "docs", candidates[:1], golden_set=qrels)
    assert again.trials[0].scores == wide.scores
    assert again.trials[0].model_ms == wide.model_ms

    part = embedmig.try_models(project, "docs", candidates[:1], golden_set=qrels, sample=300)
    assert (part.live, part.sample) == (NEW_TAG, 300)
    assert "measured among 300 of 400 rows" in part.notices[0]
    same = part.trials[0]
    assert same.scores["ndcg@10"]["value"] == pytest.approx(part.live_scores["ndcg@10"]["value"], abs=0.002)
    assert same.overlap is not None
    assert same.overlap["value"] > 0.99
    assert same.scores["ndcg@10"]["value"] >= wide.scores["ndcg@10"]["value"]


def test_a_sample_holds_the_judged_rows_says_how_it_flatters_and_without_judgements_nothing_is_better(
    project: Project, tmp_path: Path
) -> None:
    fake = Fake().register()
    wide = FakeEmbedder(48)
    embedders.register("wide", lambda _space, _settings: wide)
    project.documents(60)
    judged = project.folder / "judged.yaml"
    judged.write_text(yaml.safe_dump([{"query": "shock wave", "relevant": [str(n) for n in range(3, 9)]}]))
    listed = project.folder / "candidates.yaml"
    listed.write_text(
        yaml.safe_dump(
            ["fake/hash@1/8", {"model": "wide/hash", "version": "1", "dimensions": 16, "query_prefix": "q: "}]
        )
    )
    ran = ("try", "docs", "--candidates", str(listed), "--sample", "10")
    done = embedmig.try_models(project.opened(), "docs", ["fake/hash@1/8"], sample=10, golden_set=judged)
    assert (done.sample, done.judged_rows, done.live) == (10, 6, None)
    assert "measured among 10 of 60 rows" in done.notices[0]
    assert done.trials[0].probability_better is None

    lines = project.folder / "queries.txt"
    lines.write_text("shock wave\nheat of a plate\n")
    found = embedmig.try_models(
        project.opened(), "docs", ["fake/hash@1/8", *yaml.safe_load(listed.read_text())[1:]], sample=10, queries=lines
    )
    assert "nobody can say which is better" in found.notices[-2]
    assert [one.scores for one in found.trials] == [{}] * len(found.trials)
    assert "wide/hash gives more than 16 dimensions" in found.notices[-1]
    assert wide.seen["q: shock wave"] > 0
    assert set(fake.seen.values()) == {1}, "nothing that is in the cache is embedded again"
    with pytest.raises(UsageError, match="no candidate is given"):
        embedmig.try_models(project.opened(), "docs", [], queries=lines)
    told = json.loads(
        project.run("--json", *ran[:2], "--candidate", "wordllama/l2-supercat@0.4/64", "--queries", str(lines)).stdout
    )
    assert told["trials"][0]["dimensions"] == 64
    page = project.run("try", "docs", "--candidate", "wordllama/l2-supercat@0.4/64", "--queries", str(lines)).stdout
    assert "can't say" in page


def test_the_backfill_of_the_model_that_was_chosen_sends_no_text_that_try_has_embedded(
    project: Project, tmp_path: Path
) -> None:
    fake = Fake().register()
    project.documents(60)
    lines = tmp_path / "queries.txt"
    lines.write_text("shock wave\n")
    embedmig.try_models(project.opened(), "docs", ["fake/hash@1/8", "fake/hash@1/16"], sample=40, queries=lines)
    with project.connect() as conn:
        conn.execute(
            "update documents set body = 'another text' where id in (select id from documents order by id limit 5)"
        )
    tried = {text for text in fake.seen if text != "shock wave"}
    space_script(project, "0001")
    embedmig.upgrade(project.opened())
    seen = {text: times for text, times in fake.seen.items() if text != "shock wave"}
    held = project.rows(f"select content_hash from embedmig.{space_table(project)}")
    assert len(tried) == 40
    assert len(held) == 60
    assert {times for text, times in seen.items() if text in tried} == {2}, "once for each of two candidates, by try"
    assert {times for text, times in seen.items() if text not in tried} == {1}
    texts = dict(project.rows("select id::text, concat_ws(E'\\n\\n', title, body) from documents"))
    check_vectors(project, texts)
    [attempt] = embedmig.history(project.opened()).attempts
    assert attempt.rows_done == 60

    file = project.folder / ".embedmig" / "embeddings.sqlite"
    embedmig.try_models(project.opened(), "docs", ["fake/hash@1/12"], sample=40, queries=lines)
    with closing(sqlite3.connect(file)) as cache, cache:
        cache.execute("update vectors set vector = zeroblob(48) where length(vector) = 48 and role = 'document'")
    before = fake.seen.total()
    space_script(project, "0002", "0001", dimensions=12)
    embedmig.upgrade(project.opened())
    assert fake.seen.total() - before == 60, "nothing of a damaged cache is used"
    check_vectors(project, texts, 12)
    file.write_bytes(b"SQLite format 3\0 and then something else" * 100)
    with pytest.raises(UsageError, match="damaged") as damaged:
        embedmig.try_models(project.opened(), "docs", ["fake/hash@1/8"], queries=lines)
    assert "remove" in (damaged.value.hint or "")
    space_script(project, "0003", "0002", dimensions=10)
    embedmig.upgrade(project.opened())
    check_vectors(project, texts, 10)


def space_table(project: Project, dimensions: int = 8) -> str:
    return str(project.one(f"select table_name from embedmig.spaces where version = '{tag(dimensions)}'"))


def check_vectors(project: Project, texts: dict[str, str], dimensions: int = 8) -> None:
    """Each row has the vector that the model makes of its text."""
    rows = project.rows(f"select id::text, embedding::real[] from embedmig.{space_table(project, dimensions)}")
    made = fake_vectors(list(texts.values()), dimensions)
    made = made / np.linalg.norm(made, axis=1, keepdims=True)
    held = dict(rows)
    assert np.array([held[key] for key in texts]) == pytest.approx(made, abs=1e-6)

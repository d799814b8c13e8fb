"""Choosing before building: models beside each other on a sample, without a row written to the database."""

from __future__ import annotations

import json
import re
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

import embedmig
from embedmig import UsageError, embedders
from embedmig.errors import AnswerIsNo
from embedmig.report.trials_picture import pictures, trials_html
from embedmig.testing import FakeEmbedder
from embedmig.testing.fake_embedder import fake_vectors
from tests.acceptance.test_corpora import DATA, judgments, lines, load
from tests.in_process import Fake, space_script, tag
from tests.openai_server import OpenAIServer, shared_words
from tests.project import CONFIG, NEW_TAG, OLD_TAG, Project

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

    by_price, by_size = pictures(replace(found, trials=[replace(one, cost=2.0) for one in found.trials[:4]]))
    assert [one.number for one in by_size.points] == ["1", "2", "3", "4"]
    assert by_size.points[0].x == pytest.approx(1 / 1.08)
    assert by_size.points[1].x < by_size.points[0].x, "half precision takes less"
    assert [one.number for one in by_price.points] == ["1, 2", "3", "4"]
    assert f"1: {wide.scores['ndcg@10']['value']:.3f}" in by_size.words
    page = trials_html(found)
    assert page.count("<svg") == page.count('role="img" aria-label="nDCG@10 with its 95 % interval against') == 1
    assert "prefers-color-scheme: dark" in page
    assert not re.search(r"""(src|href)=["'](?!data:)|url\(|https?://""", page), "one file, without a network"

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
    file = tmp_path / "tried.html"
    ran = ("try", "docs", "--candidate", "wordllama/l2-supercat@0.4/64", "--queries", str(lines), "--html", str(file))
    assert "can't say" in project.run(*ran).stdout
    assert "There is no picture" in file.read_text()


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
    assert project.one("select sum(rows_done) from embedmig.embedding_migrations") == 60

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


LOCAL = """
[embedders.local]
kind = "openai"
base_url = "{url}"

[embedders.local.prices]
overlap = 2.0
"""


def test_a_language_model_judges_what_is_found_within_its_budget_and_is_measured_against_people(
    cranfield: Project, tmp_path: Path
) -> None:
    known = {key for (key,) in cranfield.rows("select id from documents")}
    people = judgments("cranfield")
    asked = [one for one in lines("cranfield", "queries") if known & people[one["id"]].keys()][:20]
    golden, plain = tmp_path / "some.yaml", tmp_path / "some.txt"
    relevant = {one["text"]: sorted(known & people[one["id"]].keys()) for one in asked}
    golden.write_text(yaml.safe_dump([{"query": query, "relevant": keys} for query, keys in relevant.items()]))
    plain.write_text("".join(f"{query}\n" for query in relevant))
    texts = dict(cranfield.rows("select id, concat_ws(E'\\n\\n', title, body) from documents"))
    candidates = ["wordllama/l2-supercat@0.4/256"]
    with OpenAIServer() as server:
        cranfield.configure(CONFIG, LOCAL.format(url=server.url))
        project = cranfield.opened()
        with pytest.raises(AnswerIsNo, match="max_cost"):
            embedmig.try_models(project, "docs", candidates, queries=plain, judge="local/overlap", max_cost=0.02)
        with pytest.raises(UsageError, match="price"):
            embedmig.try_models(project, "docs", candidates, queries=plain, judge="local/another", max_cost=1)
        before = server.stats.judged
        found = embedmig.try_models(project, "docs", candidates, queries=plain, judge="local/overlap", max_cost=1)
        assert any("agrees with people is unmeasured" in said for said in found.notices)
        assert found.trials[0].probability_better is not None
        asked_for = server.stats.judged
        assert 0 < before < asked_for / 2, "until the budget could have been passed"
        measured = embedmig.try_models(project, "docs", candidates, golden_set=golden, judge="local/overlap")
        assert server.stats.judged == asked_for, "a pair is judged once"

    with closing(sqlite3.connect(cranfield.folder / ".embedmig" / "embeddings.sqlite")) as cache:
        assert cache.execute("select count(*) from grades").fetchone()[0] == asked_for
    found_by_model = [
        (query, key)
        for query in relevant
        for key in known
        if shared_words(query, texts[key]) >= 2 and key in relevant[query]
    ]
    assert found_by_model, "the double and people agree on something"
    said = next(one for one in measured.notices if "kappa" in one)
    assert f"{asked_for} of {asked_for} pairs" in said
    assert 0 < float(said.rsplit(" ", 1)[1]) < 1
    drawn = tmp_path / "drawn.yaml"
    known_items = embedmig.try_models(project, "docs", candidates, golden_set=drawn, make_golden=15)
    assert (known_items.queries, len(yaml.safe_load(drawn.read_text()))) == (15, 15)
    assert "Known items" in known_items.notices[0]

"""Evidence from a real database: eval, compare, gates on it, shadow reads and canaries."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from random import Random

import psycopg
import pytest
from rich.console import Console

import embedmig
from embedmig import Reader
from embedmig.errors import AnswerIsNo, EmbedmigError, GateClosed, PlanError, UnknownTarget, UsageError
from embedmig.gates.evidence_table import EvidenceTable
from embedmig.quality.golden_drawing import SHOWS
from embedmig.report.evidence import compared_page, evaluated_table
from embedmig.report.page import page
from embedmig.report.tables import status_table
from tests.project import NEW_TAG, OLD_TAG, Project
from tests.waiting import wait_until

pytestmark = pytest.mark.with_ledger

GATED = """
from embedmig import Space, op, within

revision = "0002"
down_revision = "0001"
NEW = Space(collection="docs", model="wordllama/l2-supercat", version="0.4", dimensions=256)


def upgrade() -> None:
    op.create_space(NEW)
    op.backfill(NEW)
    op.create_index(NEW)
    op.gate(NEW, {evidence})
    op.flip_alias("docs", to=NEW)
"""
READS = "select active, other, k, overlap_at_k, active_ms > 0, other_ms > 0, error, query from embedmig.shadow_reads"


@pytest.fixture
def corpus(project: Project) -> Project:
    """Forty documents; the alias shows 64 dimensions, and a revision for 256 is there."""
    project.two_spaces()
    project.prepared("corpus", lambda: (project.documents(40), embedmig.upgrade(project.opened(), "0001")))
    return project


@pytest.fixture
def both(corpus: Project) -> Project:
    """Both versions filled, the alias back at the first, and a golden set."""
    embedmig.upgrade(corpus.opened())
    embedmig.downgrade(corpus.opened(), "-1")
    embedmig.make_golden(corpus.opened(), "docs", 12)
    return corpus


def shown(page: object) -> str:
    """A page as the terminal has it, its blanks made one."""
    out = io.StringIO()
    Console(file=out, width=250).print(page)
    return " ".join(out.getvalue().split())


def write_set(project: Project, text: str) -> Path:
    path = project.folder / "evals" / "docs.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


# --- eval -----------------------------------------------------------------------------------------------------


def test_every_live_version_is_measured_exactly_and_through_its_index_and_kept(both: Project) -> None:
    found = both.json("eval", "docs")
    assert [(one["version"], one["mode"]) for one in found["evaluations"]] == [
        (tag, mode) for tag in (OLD_TAG, NEW_TAG) for mode in ("exact", "index")
    ]
    assert found["stored"]
    assert found["partial"] == []
    for one in found["evaluations"]:
        assert set(one["metrics"]) == {"ndcg@10", "recall@10", "mrr@10", "success@10"}
        assert all(0 <= m["low"] <= m["value"] <= m["high"] <= 1 for m in one["metrics"].values())
        assert 0 < one["latency_ms"]["p50"] <= one["latency_ms"]["p95"]
    status = embedmig.status(both.opened())
    assert [space.evals["ndcg@10"] for space in status.collections["docs"].spaces] == [
        round(one["metrics"]["ndcg@10"]["value"], 4) for one in found["evaluations"] if one["mode"] == "index"
    ]
    assert "ndcg@10 " in shown(status_table(status))
    alone = embedmig.evaluate(both.opened(), "docs", NEW_TAG, k=5, exact_only=True)
    assert [(one.version, one.mode, "ndcg@5" in one.metrics) for one in alone.evaluations] == [(NEW_TAG, "exact", True)]


def test_a_score_of_a_half_full_space_is_marked_everywhere_and_opens_no_gate(corpus: Project) -> None:
    embedmig.make_golden(corpus.opened(), "docs", 12)
    corpus.script("0002_space.py", GATED.format(evidence="completeness=0.1, shadow_samples=1"))
    with pytest.raises(GateClosed):
        embedmig.upgrade(corpus.opened())
    with corpus.connect() as conn:
        table = corpus.one("select table_name from embedmig.spaces order by id desc limit 1")
        conn.execute(f"delete from embedmig.{table} where id >= 24")
    said = shown(evaluated_table(embedmig.evaluate(corpus.opened(), "docs", NEW_TAG)))
    assert f"{NEW_TAG} was measured on 60.0 % of the corpus" in said
    status = embedmig.status(corpus.opened())
    space = status.collections["docs"].spaces[1]
    assert space.evals == {}
    assert space.partial_evals
    assert space.partial_evals["completeness"] == 0.6
    assert "on only 60.0 % of the corpus" in shown(status_table(status))
    compared = embedmig.compare(corpus.opened(), "docs", OLD_TAG, NEW_TAG)
    assert compared.partial

    corpus.script("0002_space.py", GATED.format(evidence="completeness=0.7, ndcg_at_10=0.0"))
    with corpus.connect() as conn:
        conn.execute("delete from documents where id >= 24")  # the space is complete now; what was measured then is not
    golden = corpus.folder / "evals" / "docs.yaml"
    golden.rename(golden.with_suffix(".away"))
    with pytest.raises(GateClosed, match=r"ndcg@10 is unknown"):
        embedmig.upgrade(corpus.opened())
    golden.with_suffix(".away").rename(golden)
    embedmig.upgrade(corpus.opened())  # the gate measures it anew


def test_a_role_that_may_only_look_gets_its_figures_and_is_told_that_they_are_not_kept(
    both: Project, conn: psycopg.Connection
) -> None:
    role = f"r_{conn.info.dbname}"
    conn.execute(f"create role {role} login; grant usage on schema embedmig to {role}")
    conn.execute(f"grant select on all tables in schema embedmig, public to {role}")
    try:
        before, _, after = both.url.partition("@")
        url = f"{before.partition('://')[0]}://{role}@{after}"
        found = embedmig.evaluate(embedmig.open_project(both.folder / "embedmig.toml", database=url), "docs")
        assert found.evaluations
        assert not found.stored
        assert any("not stored" in notice for notice in found.notices)
        assert both.one("select count(*) from embedmig.evals") == 0
    finally:
        conn.execute(f"drop owned by {role}; drop role {role}")


def test_a_golden_set_drawn_from_the_corpus_says_what_it_cannot_show(corpus: Project) -> None:
    made = embedmig.make_golden(corpus.opened(), "docs", 100)
    text = (corpus.folder / "evals" / "docs.yaml").read_text()
    assert made.queries == 40
    assert "fewer than 100" in made.notices[0]
    assert made.shows == SHOWS
    assert " ".join(line.removeprefix("# ").strip() for line in text.splitlines() if line.startswith("#")) == SHOWS
    with pytest.raises(UsageError, match="exists already and was not changed"):
        embedmig.make_golden(corpus.opened(), "docs", 5)
    embedmig.make_golden(corpus.opened(), "docs", 40, corpus.folder / "evals" / "again.yaml")
    assert (corpus.folder / "evals" / "again.yaml").read_text() == text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "can't be read"),
        ("[]", "the set is empty"),
        ("- {query: '', relevant: [1]}", "query 1 is empty"),
        ("- {query: wind, relevant: [nine, 4711]}", "2 of 2 judged keys are not in documents"),
    ],
)
def test_a_golden_set_that_cannot_be_used_ends_with_2(corpus: Project, text: str | None, said: str) -> None:
    if text is not None:
        write_set(corpus, text)
    with pytest.raises(UsageError, match=said) as raised:
        embedmig.evaluate(corpus.opened(), "docs")
    assert raised.value.exit_code == 2
    assert raised.value.hint or "empty" in said


def test_keys_that_are_not_there_are_counted_and_left_out(corpus: Project) -> None:
    write_set(corpus, "- {query: wind 0, relevant: {0: 1, 4711: 2}}\n- {query: gone, relevant: [4712]}\n")
    found = embedmig.evaluate(corpus.opened(), "docs")
    assert found.queries == 1
    assert "2 of 3 judged keys are not in documents (such as 4711, 4712)" in found.notices[0]
    assert "1 of 2 queries have no relevant row left" in found.notices[0]


def test_a_version_or_a_number_that_is_not_there_ends_with_2(both: Project) -> None:
    with pytest.raises(UnknownTarget, match="has no space other"):
        embedmig.evaluate(both.opened(), "docs", "other")
    with pytest.raises(UnknownTarget, match="has no space other"):
        embedmig.compare(both.opened(), "docs", OLD_TAG, "other")
    with pytest.raises(UsageError, match="-k 0"):
        embedmig.evaluate(both.opened(), "docs", k=0)
    with pytest.raises(EmbedmigError) as raised:
        embedmig.evaluate(both.opened(), "nothing")
    assert raised.value.exit_code == 2


# --- compare --------------------------------------------------------------------------------------------------


def test_two_versions_are_set_side_by_side_by_query_tag_and_distance(both: Project) -> None:
    write_set(
        both, "- {query: shock wave, relevant: [5], tags: [short]}\n- {query: heat 2 on the plate, relevant: [2]}\n"
    )
    found = both.json("compare", "docs", OLD_TAG, NEW_TAG)
    result = found["comparison"]
    assert 0 < result["overlap"]["value"] <= 1
    assert 0 < result["rbo"]["value"] <= 1
    assert [(one["tag"], one["queries"]) for one in result["tags"]] == [("short", 1)]
    assert [one["share"] for one in result["distances"]][4] == 0.5
    assert all(one["old"] < one["new"] or one["old"] >= 0 for one in result["distances"])
    assert len(result["changed"][0]["old"]) == len(result["changed"][0]["new"]) == 10
    assert result["opinion"]["answer"] in ("better", "worse", "can't tell")
    page = shown(compared_page(embedmig.compare(both.opened(), "docs", OLD_TAG, NEW_TAG)))
    assert "rank-biased overlap" in page
    assert "shock wave" in page


def test_queries_without_judgements_give_overlap_and_no_verdict(both: Project) -> None:
    (both.folder / "queries.txt").write_text("shock wave\nbuckling of a shell\n")
    queries = both.folder / "queries.txt"
    found = embedmig.compare(both.opened(), "docs", OLD_TAG, NEW_TAG, queries=queries).comparison
    assert found.opinion.answer == "no judgements"
    assert found.old_ndcg is None
    same = embedmig.compare(both.opened(), "docs", NEW_TAG, NEW_TAG, queries=queries).comparison
    assert same.overlap["value"] == same.rbo["value"] == pytest.approx(1)
    assert same.changed == []


def test_versions_of_which_one_has_no_index_are_compared_by_exact_search_and_that_is_said(both: Project) -> None:
    assert embedmig.compare(both.opened(), "docs", OLD_TAG, NEW_TAG).mode == "index"
    table = both.one(f"select table_name from embedmig.spaces where version = '{OLD_TAG}'")
    with both.connect() as conn:
        [[index]] = conn.execute(
            "select indexname from pg_indexes where tablename = %s and indexdef ~ 'hnsw'", (table,)
        ).fetchall()
        conn.execute(f'drop index embedmig."{index}"')
    found = embedmig.compare(both.opened(), "docs", OLD_TAG, NEW_TAG)
    assert found.mode == "exact"
    assert f"{OLD_TAG} has no valid index" in found.notices[0]
    assert "exact search" in shown(compared_page(found))


# --- gates ----------------------------------------------------------------------------------------------------


def test_a_gate_on_evidence_prints_what_would_open_it_and_opens_when_it_is_there(corpus: Project) -> None:
    evidence = f"ndcg_at_10=within(0.5, of='{OLD_TAG}'), overlap_at_10=0.1, soak='0s', not_before='2020-01-01'"
    corpus.script("0002_space.py", GATED.format(evidence=evidence))
    with pytest.raises(GateClosed, match=r"ndcg@10 is unknown; required: within 0.5") as closed:
        embedmig.upgrade(corpus.opened())
    assert f"embedmig eval docs --version {NEW_TAG}" in str(closed.value.hint)
    embedmig.make_golden(corpus.opened(), "docs", 10)
    embedmig.evaluate(corpus.opened(), "docs")
    asked = {verdict.name: verdict.passed for verdict in embedmig.gate(corpus.opened(), "docs")}
    assert (asked["ndcg@10"], asked["overlap@10"], asked["soak"], asked["not_before"]) == (True, False, True, True)
    with pytest.raises(GateClosed, match="overlap@10"):
        embedmig.upgrade(corpus.opened())
    embedmig.compare(corpus.opened(), "docs", OLD_TAG, NEW_TAG)
    embedmig.upgrade(corpus.opened())
    assert embedmig.status(corpus.opened()).collections["docs"].active == NEW_TAG


def test_a_gate_that_compares_with_a_version_that_is_not_there_is_refused(corpus: Project) -> None:
    corpus.script("0002_space.py", GATED.format(evidence="ndcg_at_10=within(0.1, of='other')"))
    with pytest.raises(PlanError, match="has no space other"):
        embedmig.upgrade(corpus.opened())
    assert embedmig.status(corpus.opened()).current == ["0001"]


def test_a_version_is_retired_only_when_what_is_shown_has_proved_as_good(both: Project) -> None:
    embedmig.upgrade(both.opened())
    both.script(
        "0003_retire.py",
        "from embedmig import op\nrevision = '0003'\ndown_revision = '0002'\ndef upgrade():\n"
        f"    op.retire_space({OLD_TAG!r}, collection='docs', after='0s', evals_stable=2)\n",
    )
    with pytest.raises(AnswerIsNo, match="was not evaluated yet"):
        embedmig.upgrade(both.opened())
    embedmig.evaluate(both.opened(), "docs", exact_only=True)  # the old index is not read: that would count as use
    with pytest.raises(AnswerIsNo, match="1 of 2 evaluations"):
        embedmig.upgrade(both.opened())
    embedmig.evaluate(both.opened(), "docs", NEW_TAG, exact_only=True)
    embedmig.upgrade(both.opened())
    assert embedmig.status(both.opened()).collections["docs"].spaces[0].state == "retired"


def test_retiring_by_hand_can_wait_for_the_same_proof(both: Project) -> None:
    embedmig.upgrade(both.opened())
    asked = ("retire", "docs", OLD_TAG, "--confirm", OLD_TAG, "--after", "0s", "--evals-stable")
    assert "not above 0" in both.run(*asked, "0", expect=2).stderr
    embedmig.evaluate(both.opened(), "docs", exact_only=True)
    assert "1 of 2 evaluations" in both.run(*asked, "2", expect=3).stderr
    embedmig.evaluate(both.opened(), "docs", NEW_TAG, exact_only=True)
    both.run(*asked, "2")
    assert embedmig.status(both.opened()).collections["docs"].spaces[0].state == "retired"


# --- shadow and canary ----------------------------------------------------------------------------------------


@pytest.fixture
def shadowed(both: Project) -> Iterator[Reader]:
    with Reader(both.url, "docs", shadow=NEW_TAG, rate=1.0) as reader:
        yield reader


def test_a_shadow_read_changes_no_answer_and_is_kept_without_its_text(both: Project, shadowed: Reader) -> None:
    with Reader(both.url, "docs") as plain:
        for text, k in (("shock wave", 10), ("panel flutter", 3)):
            assert shadowed.search(text, k) == plain.search(text, k)
    rows = wait_until(lambda: len(found := both.rows(READS)) == 2 and found, "two shadow reads")
    for active, other, k, overlap, active_ms, other_ms, error, query in rows:
        assert (active, other, k, active_ms, other_ms, error, query) == (OLD_TAG, NEW_TAG, 10, True, True, None, None)
        assert 0 < overlap <= 1


def test_a_shadow_takes_its_share_and_the_oldest_reads_are_forgotten(both: Project) -> None:
    with Reader(both.url, "docs", shadow=NEW_TAG, rate=0.5, random=Random(7), keep_texts=True) as reader:
        for number in range(20):
            reader.search(f"wave {number}")
    chance = Random(7)
    wanted = [f"wave {number}" for number in range(20) if chance.random() < 0.5]
    assert [row[-1] for row in both.rows(READS + " order by id")] == wanted
    with both.connect() as conn:
        EvidenceTable("embedmig").prune_reads(conn, "docs", NEW_TAG, keep=3)
    assert [row[-1] for row in both.rows(READS + " order by id")] == wanted[-3:]


def test_a_space_retired_under_its_shadow_ends_it_with_one_warning(
    both: Project, shadowed: Reader, caplog: pytest.LogCaptureFixture
) -> None:
    shadowed.search("shock wave")
    wait_until(lambda: both.rows(READS), "a shadow read")
    with both.connect() as conn, conn.transaction():
        table = both.one(f"select table_name from embedmig.spaces where version = '{NEW_TAG}'")
        conn.execute(f"drop table embedmig.{table}")
        conn.execute(f"update embedmig.spaces set state = 'retired' where version = '{NEW_TAG}'")
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert {hit.version for hit in shadowed.search("shock wave")} == {OLD_TAG}
        wait_until(lambda: caplog.records, "a warning")
        assert shadowed.search("shock wave")
    assert [record.name for record in caplog.records] == ["embedmig.shadow"]
    assert "is retired" in caplog.text


def test_a_shadow_of_a_version_that_is_not_there_changes_no_answer_and_is_warned_of_once(
    both: Project, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), Reader(both.url, "docs", shadow="other", rate=1.0) as reader:
        for _ in range(3):
            assert {hit.version for hit in reader.search("shock wave")} == {OLD_TAG}
        wait_until(lambda: caplog.records, "a warning")
        with pytest.raises(UsageError, match="the query is empty"):
            reader.search(" ")
    assert ["version other of 'docs' is not there" in record.getMessage() for record in caplog.records] == [True]
    assert both.rows(READS) == []


def test_markup_in_titles_and_queries_is_shown_as_it_stands(both: Project) -> None:
    with both.connect() as conn:
        conn.execute("update documents set title = '[bold]<script>[/nothing]'")
    write_set(both, "- {query: '[red]<b>wind[/nothing]', relevant: [5]}\n")
    printed = both.run("compare", "docs", OLD_TAG, NEW_TAG).stdout
    assert "[red]<b>wind[/nothing]" in printed
    assert "[bold]<script>[/nothing]" in printed
    assert "[bold]<script>[/nothing]" in both.run("search", "docs", "[red]<b>wind[/nothing]").stdout
    html = page(embedmig.gather_report(both.opened(), audited=True, with_text=True), now=datetime.now(UTC))
    assert "<script>" not in html
    assert "<b>wind" not in html


def test_a_canary_answers_its_tenants_wholly_and_everyone_else_as_before(both: Project) -> None:
    with Reader(both.url, "docs", canary=NEW_TAG, canary_for={"acme"}) as reader:
        seen = [{hit.version for hit in reader.search("shock wave", tenant=t)} for t in ("acme", "other", None)]
        assert seen == [{NEW_TAG}, {OLD_TAG}, {OLD_TAG}]
        assert reader.search("shock wave", tenant="acme")[0].columns.keys() == {"title"}
        embedmig.upgrade(both.opened())
        assert {hit.version for hit in reader.search("shock wave")} == {NEW_TAG}
    with Reader(both.url, "docs", canary=OLD_TAG, share=0.5, random=Random(7)) as reader:
        chance = Random(7)
        for _ in range(10):
            wanted = OLD_TAG if chance.random() < 0.5 else NEW_TAG
            assert {hit.version for hit in reader.search("shock wave")} == {wanted}


def test_a_canary_that_is_retired_leaves_its_reads_to_the_alias(
    both: Project, caplog: pytest.LogCaptureFixture
) -> None:
    with Reader(both.url, "docs", canary=NEW_TAG, share=1.0) as reader, both.connect() as conn:
        assert {hit.version for hit in reader.search("shock wave")} == {NEW_TAG}
        table = both.one(f"select table_name from embedmig.spaces where version = '{NEW_TAG}'")
        conn.execute(f"drop table embedmig.{table}")
        conn.execute(f"update embedmig.spaces set state = 'retired' where version = '{NEW_TAG}'")
        for _ in range(3):
            assert {hit.version for hit in reader.search("shock wave")} == {OLD_TAG}
    assert [record.name for record in caplog.records] == ["embedmig.canary"]


@pytest.mark.parametrize(
    "options", [{"shadow": "x", "rate": 0}, {"shadow": "x", "rate": 2}, {"canary": "x", "share": -1}]
)
def test_a_share_that_is_none_is_refused(both: Project, options: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        Reader(both.url, "docs", **options)  # type: ignore[arg-type]

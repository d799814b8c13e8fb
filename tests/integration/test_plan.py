"""A plan's figures are held to what happens: real tokens, real builds, a real model's time; the truth stands beside them."""

from __future__ import annotations

import json
import re
import threading
from datetime import UTC, datetime, timedelta

import numpy as np
import psycopg
import pytest

import embedmig
from embedmig.commands.eta import eta
from embedmig.errors import AnswerIsNo, EmbedderUnavailable, Interrupted
from embedmig.report.page import page
from embedmig.stores.index_sizes import graph_bytes, index_bytes, table_bytes
from embedmig.types import Progress, Storage
from tests.openai_server import OpenAIServer
from tests.project import CONFIG, Project, embeddings

pytestmark = pytest.mark.with_ledger

MEMORY = 6 << 20


@pytest.fixture
def small(project: Project) -> Project:
    """Three hundred documents, and one space pending."""
    project.documents(300)
    project.space_script("0001")
    return project


def forecast(project: Project, **asked: int) -> embedmig.Forecast:
    """The only backfill of the plan."""
    (found,) = embedmig.plan(project.opened(), **asked).forecasts
    return found


# --- tokens -----------------------------------------------------------------------------------------------------


def test_tokens_are_the_tokenizers_own_count_of_every_text(small: Project) -> None:
    texts = [row[0] for row in small.rows("select title || E'\\n\\n' || body from documents")]
    counted = sum(
        sum(one.attention_mask) for one in embeddings(64).tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    )
    found = forecast(small).estimate
    assert (found.tokens, found.tokens_error, found.tokens_basis) == (counted, 0, "tokenizer")
    assert "counted by the model's tokenizer, all 300 texts" in small.run("plan").stdout


def test_of_a_big_corpus_tokens_are_extrapolated_with_an_interval_that_holds_the_truth(
    small: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = forecast(small).estimate.tokens
    monkeypatch.setattr("embedmig.planning.tokens.EXACT_CHARACTERS", 1000)
    monkeypatch.setattr("embedmig.planning.tokens.SAMPLE", 100)
    found = forecast(small).estimate
    assert found.tokens_basis == "sample"
    assert found.tokens is not None
    assert found.tokens_error is not None
    assert exact is not None
    assert 0 < found.tokens_error < 0.2 * exact
    assert abs(found.tokens - exact) <= 2 * found.tokens_error
    assert "from 100 texts at random, ±" in found.note


def test_without_a_tokenizer_tokens_are_guessed_and_said_to_be(project: Project) -> None:
    project.documents(20)
    project.space_script("0001", model="openai/text-embedding-3-small", version="1", dimensions=64)
    found = forecast(project).estimate
    characters = project.one("select sum(length(title || E'\\n\\n' || body)) from documents")
    assert (found.tokens, found.tokens_basis) == (round(characters / 4), "characters")
    assert "± 30 %" in found.note


def test_cut_texts_are_weighed_as_the_model_gets_them_prefix_and_overlap_included(project: Project) -> None:
    project.documents(40)
    project.space_script("0001", more="chunk={'size': 20, 'overlap': 5}, document_prefix='passage: '")
    found = forecast(project).estimate
    embedmig.upgrade(project.opened())
    took = project.json("show", "0001")["attempts"][0]["backfills"][0]["truth"]
    (table,) = project.rows("select table_name from embedmig.spaces")[0]
    assert (found.rows, found.tokens, found.vectors) == (
        40,
        took["tokens"],
        project.one(f"select count(*) from embedmig.{table}"),
    )


def test_of_a_space_that_is_half_full_only_the_rest_is_counted(small: Project) -> None:
    path = small.migrations / "0001_space.py"
    path.write_text(path.read_text().replace("completeness=0.995", 'not_before="2999-01-01"', 1))
    with pytest.raises(AnswerIsNo):
        embedmig.upgrade(small.opened())
    with small.connect() as conn:
        conn.execute("insert into documents values (1000, 'one', 'more')")
    found = forecast(small)
    assert (found.estimate.rows, found.estimate.tokens_basis, found.estimate.vectors) == (1, "tokenizer", 1)
    assert 0 < (found.estimate.tokens or 0) < 10
    assert found.sizes["vector"].table == table_bytes(301, 64, "vector")


def test_texts_are_drawn_from_any_table_under_its_own_predicate(project: Project) -> None:
    with project.connect() as conn:
        conn.execute(
            """create table "Odd Docs" (tenant int, "Id" text, "The Text" text, live bool, primary key (tenant, "Id")) partition by list (tenant);
               create table odd_1 partition of "Odd Docs" for values in (1);
               create table odd_2 partition of "Odd Docs" for values in (2);
               insert into "Odd Docs" select 1 + g % 2, 'k' || g, case when g % 10 = 0 then ' ' else 'some words ' || g end, g % 4 <> 0
               from generate_series(1, 100) g"""
        )
    odd = CONFIG.replace('"documents"', "'\"Odd Docs\"'").replace('key = "id"', """key = ["tenant", '"Id"']""")
    project.configure(
        odd.replace('["title", "body"]', """'"The Text"'""").replace('["title"]', "[]") + '\nwhere = "live"\n'
    )
    project.space_script("0001")
    found = forecast(project).estimate
    assert (found.rows, found.vectors, found.tokens_basis) == (70, 70, "tokenizer")


# --- prices -----------------------------------------------------------------------------------------------------


def test_a_list_price_carries_its_date_the_configured_one_goes_first_and_an_unknown_one_is_never_0(
    project: Project,
) -> None:
    project.documents(20)
    project.space_script("0001", model="openai/text-embedding-3-small", version="1", dimensions=64)
    listed = forecast(project).estimate
    assert (listed.price, listed.price_from) == (0.02, "list price of 2026-11-21 (developers.openai.com)")
    assert "list price of 2026-11-21 (developers.openai.com)" in project.run("plan").stdout

    project.configure(
        CONFIG, '\n[embedders.openai]\nprice = 7\n[embedders.openai.prices]\n"text-embedding-3-small" = 5\n'
    )
    own = forecast(project).estimate
    assert (own.price, own.price_from, own.cost) == (5, "from embedmig.toml", (own.tokens or 0) * 5 / 1e6)

    project.configure(CONFIG)
    project.space_script("0001", model="openai/text-embedding-9", version="1", dimensions=64)
    document = project.json("plan")
    estimate = document["forecasts"][0]["estimate"]
    assert (estimate["cost"], estimate["price"]) == (None, None)
    shown = project.run("plan").stdout
    assert "unknown: no price for openai/text-embedding-9" in shown
    assert "$0" not in shown


# --- time: the probe --------------------------------------------------------------------------------------------


def test_without_a_probe_the_time_is_unknown_until_a_run_has_measured_the_model(small: Project) -> None:
    assert forecast(small).time.seconds is None
    assert "unknown: --probe measures it" in small.run("plan").stdout
    embedmig.upgrade(small.opened())
    small.space_script("0002", "0001", dimensions=256)
    found = forecast(small).time
    assert found.seconds is not None
    assert re.search(r"as 0001 on \d{4}-\d\d-\d\d embedded 300 rows in", found.known_by)


@pytest.mark.with_ledger(False)
def test_a_probe_asks_the_real_model_with_as_many_requests_at_once_as_a_run_and_says_its_cost(project: Project) -> None:
    project.documents(1000)
    project.space_script("0001", model="openai/text-embedding-3-small", version="1", dimensions=64)
    with OpenAIServer(dimensions=64, latency=0.05) as server:
        settings = f'\n[embedders.openai]\nbase_url = "{server.url}"\nconcurrency = 4\nbatch_size = 25\nprice = 10\n'
        project.configure(CONFIG, settings)
        found = forecast(project, probe_texts=300)
        assert server.stats.most_in_flight == 4
        assert found.probe is not None
        assert (found.probe.rows, found.probe.requests, found.probe.in_flight) == (300, 12, 4)
        billed = found.probe.tokens or 0
        assert found.probe_cost == pytest.approx(billed * 10 / 1e6)
        assert found.estimate.tokens_basis == "probe"
        assert found.estimate.tokens == pytest.approx(billed * 1000 / 300, rel=0.1)
        best = 1000 / 4 / 25 * 0.05  # what the latency alone takes
        assert best <= (found.time.seconds or 0) < 20 * best
        assert (found.time.low or 0) <= (found.time.seconds or 0) <= (found.time.high or 0)
        shown = project.run("plan", "--probe-texts", "100").stdout
        assert "probe of 100 texts" in shown
        assert "the probe itself: 100 texts, " in shown
    assert project.one("select to_regnamespace('embedmig')") is None


def test_a_probe_is_no_faster_than_the_configured_limits_and_no_dearer_than_max_cost(project: Project) -> None:
    project.documents(300)
    project.space_script("0001", model="openai/text-embedding-3-small", version="1", dimensions=64)
    with OpenAIServer(dimensions=64) as server:
        own = f'\n[embedders.openai]\nbase_url = "{server.url}"\nprice = 1000\n'
        project.configure(CONFIG, own + "tokens_per_minute = 100000\n")
        found = forecast(project, probe_texts=50)
        assert found.time.seconds == pytest.approx((found.estimate.tokens or 0) * 60 / 100_000)
        assert "held to tokens_per_minute" in found.time.known_by
        project.configure(CONFIG, own + "max_cost = 0.001\n")
        asked = server.stats.requests
        with pytest.raises(AnswerIsNo, match="could cost"):
            forecast(project, probe_texts=50)
        assert server.stats.requests == asked


def test_a_probe_of_a_model_that_can_not_be_reached_says_so(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.documents(5)
    project.space_script("0001", model="openai/text-embedding-3-small", version="1", dimensions=64)
    project.configure(CONFIG, '\n[embedders.openai]\nbase_url = "http://127.0.0.1:9"\n')
    monkeypatch.setattr("embedmig.commands.plan.PATIENCE", 0.1)
    with pytest.raises(EmbedderUnavailable, match="no success from the API"):
        forecast(project, probe_texts=5)
    project.configure(CONFIG)
    refused = project.run("plan", "--probe", expect=2)
    assert "no API key for OpenAI" in refused.stderr


# --- disk and memory: held to real builds -------------------------------------------------------------------------


@pytest.mark.parametrize(("dimensions", "storage"), [(64, "vector"), (768, "vector"), (768, "halfvec")])
def test_the_sizes_are_those_of_a_real_build(conn: psycopg.Connection, dimensions: int, storage: Storage) -> None:
    rows = int(1.1 * MEMORY / graph_bytes(1, dimensions, storage, 16))
    fill(conn, rows, dimensions, storage)
    (table,) = conn.execute("select pg_total_relation_size('space')").fetchone() or (0,)
    notices: list[str] = []
    conn.add_notice_handler(lambda notice: notices.append(notice.message_primary or ""))
    conn.execute(f"set maintenance_work_mem = '{MEMORY}B'; set max_parallel_maintenance_workers = 0")
    conn.execute(
        f"create index built on space using hnsw (embedding {storage}_l2_ops) with (m = 16, ef_construction = 32)"
    )
    (index,) = conn.execute("select pg_relation_size('built')").fetchone() or (0,)
    (fitted,) = [int(number) for notice in notices for number in re.findall(r"after (\d+) tuples", notice)]
    # pgvector says after how many vectors the memory was full, to the megabyte that it takes at once
    assert graph_bytes(fitted, dimensions, storage, 16) == pytest.approx(MEMORY - (1 << 19), abs=0.6 * (1 << 20))
    assert index_bytes(rows, dimensions, storage, 16) == pytest.approx(index, rel=0.06)
    assert table_bytes(rows, dimensions, storage) == pytest.approx(table, rel=0.04)


def fill(conn: psycopg.Connection, rows: int, dimensions: int, storage: str) -> None:
    """A space's table, with random vectors, written as embedmig writes: a copy into another table makes it grow in leaps."""
    conn.execute(
        f"""create table space (id bigint not null, chunk int not null default 0, version text not null default '{"v" * 45}',
              content_hash bytea not null, embedding {storage}({dimensions}) not null,
              embedded_at timestamptz not null default now(), primary key (id, chunk));
            create temp table batch (id bigint, embedding {storage}({dimensions}))"""
    )
    chance = np.random.default_rng(1)
    with conn.cursor() as cursor, cursor.copy("copy batch from stdin") as copy:
        for row in range(rows):
            vector = np.round(chance.standard_normal(dimensions), 4)
            copy.write_row((row, json.dumps(vector.tolist())))
    conn.execute(
        "insert into space (id, content_hash, embedding) select id, repeat('h', 32)::bytea, embedding from batch"
    )


def test_disk_and_memory_are_given_for_both_storage_types(small: Project) -> None:
    found = forecast(small)
    assert list(found.sizes) == ["vector", "halfvec"]
    full, half = found.sizes["vector"], found.sizes["halfvec"]
    assert full.memory is not None
    assert half.memory is not None
    assert full.index is not None
    assert half.table < full.table
    assert half.memory < full.memory
    assert full.peak >= full.table + full.index
    assert found.server_memory == small.one("select pg_size_bytes(current_setting('maintenance_work_mem'))")
    assert re.search(r"the server's maintenance_work_mem is [\d.]+ MB: enough", small.run("plan").stdout)
    with small.connect() as conn:
        if conn.info.server_version < 170000:
            return  # older servers take no setting so low
        conn.execute(f"alter database {conn.info.dbname} set maintenance_work_mem = '64kB'")
    assert "65.5 kB: too small" in small.run("plan").stdout


# --- the truth beside the estimate --------------------------------------------------------------------------------


def test_an_upgrade_keeps_its_estimate_and_the_truth_beside_it(small: Project) -> None:
    tokens = forecast(small).estimate.tokens
    embedmig.upgrade(small.opened())
    (attempt,) = small.json("show", "0001")["attempts"]
    (found,) = attempt["backfills"]
    estimate, truth = found["estimate"], found["truth"]
    assert (estimate["rows"], truth["rows"], truth["tokens"]) == (300, 300, tokens)
    assert abs(estimate["tokens"] - tokens) <= max(estimate["tokens_error"], 0.1 * tokens)
    assert estimate["seconds"] is None
    assert truth["seconds"] > 0
    assert (estimate["cost_usd"], truth["cost_usd"]) == (0, 0)
    assert 0 < truth["bytes"] < estimate["bytes"] + 128 * 1024
    shown = small.run("show", "0001").stdout
    assert re.search(r"estimated +300 rows, [\d,]+ tokens, \$0\.00, time unknown", shown)
    assert re.search(rf"took +300 rows, {tokens:,} tokens, \$0\.00, [\d.]+ m?s", shown)


def test_of_a_run_that_was_stopped_each_attempt_has_its_own_part(
    small: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embedmig.engine.pipeline.COMMIT_ROWS", 10)  # one batch a commit, and at most a few under way
    small.configure(CONFIG, "\n[embedders.wordllama]\nbatch_size = 10\nconcurrency = 1\n")
    stop = threading.Event()

    def stop_at_the_first(event: object) -> None:
        if isinstance(event, Progress):
            stop.set()

    with pytest.raises(Interrupted):
        embedmig.upgrade(small.opened(), report=stop_at_the_first, stop=stop)
    embedmig.upgrade(small.opened())
    first, second = (attempt["backfills"][0] for attempt in small.json("show", "0001")["attempts"])
    assert 0 < first["truth"]["rows"] < 300
    assert second["estimate"]["rows"] == second["truth"]["rows"] == 300 - first["truth"]["rows"]


def test_an_estimate_that_can_not_be_made_or_kept_stops_nothing(
    small: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr("embedmig.operations.estimate_recorder.draw_texts", broken)
    monkeypatch.setattr("embedmig.database.ledger.Ledger.record_estimate", broken)
    embedmig.upgrade(small.opened())
    assert embedmig.status(small.opened()).settled
    assert small.json("show", "0001")["attempts"][0]["backfills"] == []


# --- the launch date ------------------------------------------------------------------------------------------------


def gated(project: Project, gate: str) -> None:
    """A second space behind a gate."""
    path = project.space_script("0002", "0001", dimensions=256)
    path.write_text(path.read_text().replace("completeness=0.995", f"completeness=0.995, {gate}", 1))


def test_the_launch_is_the_later_of_rate_soak_and_not_before_and_says_which(small: Project) -> None:
    embedmig.upgrade(small.opened())
    now = datetime(2030, 1, 1, tzinfo=UTC)
    assert eta(small.opened(), now).held_by == "nothing is pending"
    gated(small, 'not_before="2030-02-01"')
    held = eta(small.opened(), now)
    assert (held.at, held.held_by) == (datetime(2030, 2, 1, tzinfo=UTC), "held by the gate's not_before 2030-02-01")
    shown = page(embedmig.gather_report(small.opened(), now=now), now=now)
    assert re.search(r'id="launch">2030-02-01 00:00<.*held by the gate&#39;s not_before 2030-02-01', shown)
    gated(small, 'not_before="2029-12-01"')
    free = eta(small.opened(), now)
    assert free.at is not None
    assert now < free.at < now + timedelta(minutes=5)
    assert free.held_by == "if started now, at the rate last measured"
    gated(small, 'soak="3d", not_before="2030-01-02"')
    soaked = eta(small.opened(), now)
    assert soaked.at is not None
    assert now + timedelta(days=3) <= soaked.at < now + timedelta(days=3, minutes=5)
    assert soaked.held_by == "held by the gate's soak of 3d"


def test_a_soak_that_began_counts_from_when_the_space_was_ready(small: Project) -> None:
    embedmig.upgrade(small.opened())
    gated(small, 'soak="3d"')
    with pytest.raises(AnswerIsNo):
        embedmig.upgrade(small.opened())
    ready = small.one("select state_since from embedmig.spaces where revision = '0002'")
    assert eta(small.opened(), datetime.now(UTC)).at == ready + timedelta(days=3)

"""``mode = "batch"``: rows at an API for hours. Nothing paid for twice, nothing lost, whatever ends when."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import embedmig
from embedmig.embedders.openai_batch import BatchClient
from embedmig.engine import batch_api
from embedmig.errors import AnswerIsNo, EmbedderMisconfigured, EmbedderUnavailable, Interrupted, RunSuperseded
from embedmig.events import Event, Notice
from tests.openai_server import OpenAIServer, vector
from tests.project import CONFIG, Project

ROWS = 60
ORDINARY = 1 + 5
"""Texts by ordinary requests in each run: the probe, and the canary texts."""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_api, "LOOK_SECONDS", (0.005, 0.02))


@pytest.fixture
def ready(project: Project) -> Project:
    project.documents(ROWS)
    return project


def configure(project: Project, server: OpenAIServer, more: str = "") -> None:
    section = f'\n[embedders.openai]\nbase_url = "{server.url}"\nbatch_size = 5\nmode = "batch"\n{more}'
    project.configure(CONFIG, section)
    project.space_script(model="openai/text-embedding-3-small", version="1", dimensions=16)


def upgrade(project: Project, stop_at: str | None = None) -> list[str]:
    """Runs to the head in this process; what was said. Stops when something with ``stop_at`` in it is."""
    said: list[str] = []
    stop = threading.Event()

    def listen(event: Event) -> None:
        if isinstance(event, Notice):
            said.append(event.text)
            if stop_at and stop_at in event.text:
                stop.set()

    embedmig.upgrade(project.opened(), report=listen, stop=stop)
    return said


def embed(texts: list[str], dimensions: int) -> Any:
    import numpy as np

    raw = np.stack([vector(text, dimensions) for text in texts])
    return raw / np.linalg.norm(raw, axis=1, keepdims=True)


def whole(project: Project) -> None:
    project.expect_exact(embed=embed)
    assert project.one("select count(*) from docs_embeddings") == ROWS
    assert project.one("select count(*) from embedmig.failed_rows") == 0
    assert project.one("select count(*) from embedmig.batches") == 0
    assert project.one("select count(*) from embedmig.batch_rows") == 0


def test_a_backfill_goes_by_batches_and_its_answers_may_come_in_any_order(ready: Project) -> None:
    with OpenAIServer(batches=({"looks": 3},)) as server:
        configure(ready, server)
        upgrade(ready)
        assert len(server.api.desk.batches) == 1
        assert server.stats.in_batches == ROWS
        assert server.stats.answered == ORDINARY, "nothing at the full price"
    whole(ready)


def test_more_than_a_batch_takes_goes_in_several(ready: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_api, "MAX_TEXTS", 20)
    with OpenAIServer(batches=({"looks": 5}, {}, {"looks": 1})) as server:
        configure(ready, server)
        upgrade(ready)
        assert [len(content.splitlines()) for name, content in server.api.desk.files.items()][:3] == [4, 4, 4]
        assert server.stats.in_batches == ROWS
    whole(ready)


def test_stopped_while_a_batch_is_out_it_goes_on_there_and_the_next_run_takes_it_in(ready: Project) -> None:
    with OpenAIServer(batches=({"looks": 10_000},)) as server:
        configure(ready, server)
        with pytest.raises(Interrupted, match="1 batch goes on at the API"):
            upgrade(ready, stop_at="60 rows sent")
        assert ready.one("select count(*) from embedmig.batch_rows") == ROWS
        [space] = embedmig.status(ready.opened()).collections["docs"].spaces
        assert [(one["id"], one["rows"]) for one in space.batches] == [("batch_0", ROWS)]
        assert f"{ROWS} in batches at the API" in ready.run("status").stdout
        server.api.desk.looks_left["batch_0"] = 0
        upgrade(ready)
        assert len(server.api.desk.batches) == 1
        assert server.stats.in_batches == ROWS, "paid for once"
    whole(ready)


def test_a_batch_whose_answer_got_lost_is_found_again_and_not_sent_twice(ready: Project) -> None:
    with OpenAIServer(batches=({"lost": True},)) as server:
        configure(ready, server)
        with pytest.raises(EmbedderUnavailable, match="Batch API fails"):
            upgrade(ready)
        assert ready.one("select remote_id from embedmig.batches") is None
        upgrade(ready)
        assert len(server.api.desk.batches) == 1
        assert server.stats.in_batches == ROWS
    whole(ready)


def test_claimed_rows_of_a_batch_that_was_never_made_are_free_again(ready: Project) -> None:
    with OpenAIServer(batches=({"lost": True},)) as server:
        configure(ready, server)
        with pytest.raises(EmbedderUnavailable):
            upgrade(ready)
        server.api.desk.batches.clear()
        upgrade(ready)
        assert server.stats.in_batches == ROWS
    whole(ready)


def test_of_an_expired_batch_what_is_done_is_taken_and_the_rest_sent_again(ready: Project) -> None:
    with OpenAIServer(batches=({"expires": 7},)) as server:
        configure(ready, server)
        said = upgrade(ready)
        assert any("expired, 35 rows taken in" in text for text in said)
        assert len(server.api.desk.batches) == 2
        assert server.stats.in_batches == ROWS, "what was done is not sent again"
        assert server.stats.answered == ORDINARY
    whole(ready)


def test_a_batch_that_expires_with_nothing_done_ends_the_run_and_is_sent_anew_by_the_next(ready: Project) -> None:
    with OpenAIServer(batches=({"expires": 0},)) as server:
        configure(ready, server)
        with pytest.raises(EmbedderUnavailable, match="expired and brought nothing"):
            upgrade(ready)
        upgrade(ready)
    whole(ready)


def test_what_a_batch_answers_with_an_error_is_asked_for_by_ordinary_requests(ready: Project) -> None:
    with OpenAIServer(batches=({"errors": [0, 3]},)) as server:
        configure(ready, server)
        upgrade(ready)
        assert server.stats.in_batches == ROWS - 10
        assert server.stats.answered == ORDINARY + 10
    whole(ready)


def test_a_batch_that_does_not_pass_validation_says_why_and_holds_nothing(ready: Project) -> None:
    with OpenAIServer(batches=({"fails": "line 3 is not JSON"},)) as server:
        configure(ready, server)
        with pytest.raises(EmbedderMisconfigured, match="line 3 is not JSON"):
            upgrade(ready)
        assert ready.one("select count(*) from embedmig.batch_rows") == 0
        upgrade(ready)
    whole(ready)


def test_a_batch_that_the_api_has_no_room_for_waits_until_another_has_ended(
    ready: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_api, "MAX_TEXTS", 30)
    full = {"fails": "enqueued token limit reached", "code": "token_limit_exceeded"}
    with OpenAIServer(batches=({"looks": 4}, full)) as server:
        configure(ready, server)
        upgrade(ready)
        assert len(server.api.desk.batches) == 3
        assert server.stats.in_batches == ROWS
    whole(ready)


def test_rows_edited_and_deleted_while_their_batch_is_out_are_never_stale(ready: Project) -> None:
    with OpenAIServer(batches=({"looks": 10_000},)) as server:
        configure(ready, server)
        with pytest.raises(Interrupted):
            upgrade(ready, stop_at="60 rows sent")
        with ready.connect() as conn:
            conn.execute("update documents set body = 'edited' where id = 7")
            conn.execute("delete from documents where id = 8")
            conn.execute("insert into documents values (8, 'another', 'row under the same key')")
        server.api.desk.looks_left["batch_0"] = 0
        upgrade(ready)
        assert server.stats.answered == 2 * ORDINARY + 2, "both by ordinary requests"
    whole(ready)


def test_a_row_in_a_batch_is_not_given_to_ordinary_requests_when_the_mode_is_changed(ready: Project) -> None:
    with OpenAIServer(batches=({"looks": 10_000},)) as server:
        configure(ready, server)
        with pytest.raises(Interrupted):
            upgrade(ready, stop_at="60 rows sent")
        config = ready.folder / "embedmig.toml"
        config.write_text(config.read_text().replace('mode = "batch"', 'mode = "live"'))
        server.api.desk.looks_left["batch_0"] = 3
        upgrade(ready)
        assert server.stats.in_batches == ROWS
        assert server.stats.answered == 2 * ORDINARY
        assert len(server.api.desk.batches) == 1
    whole(ready)


def test_rows_of_several_chunks_come_back_whole(ready: Project) -> None:
    pytest.importorskip("semantic_text_splitter", reason="the extra chunk is not installed")
    with OpenAIServer(batches=({"expires": 20},)) as server:
        configure(ready, server)
        config = ready.folder / "embedmig.toml"
        config.write_text(config.read_text().replace('key = "id"', 'key = "id"\nchunk = { size = 12 }'))
        ready.space_script(
            model="openai/text-embedding-3-small",
            version="1",
            dimensions=16,
            more='chunk={"size": 12, "unit": "characters"}',
        )
        upgrade(ready)
        assert server.stats.answered == ORDINARY
    table = ready.one("select format('%I.%I', table_schema, table_name) from embedmig.spaces")
    assert ready.one(f"select min(chunk_count) from {table}") > 1
    assert ready.one(f"select count(distinct id) from {table}") == ROWS
    for text, held in ready.rows(
        f"""select substr(d.title || E'\n\n' || d.body, e.chunk_start + 1, e.chunk_end - e.chunk_start), e.embedding::text
            from {table} e join documents d using (id)"""
    ):
        assert json.loads(held) == pytest.approx(embed([text], 16)[0].tolist(), abs=1e-5)


def test_batches_cost_half_and_stop_at_max_cost(ready: Project) -> None:
    with OpenAIServer() as server:
        configure(ready, server, "price = 1000.0\n")
        (planned,) = embedmig.dry_run(ready.opened(), "upgrade", "head")
        (estimate,) = [operation.estimate for operation in planned.operations if operation.kind == "backfill"]
        assert estimate.cost == pytest.approx((estimate.tokens or 0) * 500.0 / 1e6)
        upgrade(ready)
        tokens, cost = ready.rows("select tokens, cost_usd::float8 from embedmig.embedding_migrations")[0]
        assert tokens == sum(server.api.count(ready_texts(ready)))
        assert cost == pytest.approx(tokens * 500.0 / 1e6)


def ready_texts(project: Project) -> list[str]:
    return [row[0] for row in project.rows("select title || E'\\n\\n' || body from documents")]


def test_no_batch_is_sent_that_could_pass_max_cost(ready: Project) -> None:
    with OpenAIServer() as server:
        configure(ready, server, "price = 1000.0\nmax_cost = 0.1\n")
        with pytest.raises(Exception, match="could pass max_cost"):
            upgrade(ready)
        assert server.api.desk.batches == {}
        assert ready.one("select count(*) from embedmig.batch_rows") == 0


def test_one_bad_line_of_an_answer_costs_its_rows_a_request_and_the_others_nothing(ready: Project) -> None:
    with OpenAIServer(batches=({"bad": [2]},)) as server:
        configure(ready, server)
        upgrade(ready)
        assert len(server.api.desk.batches) == 1
        assert server.stats.answered == ORDINARY + 5, "one line has five rows"
    whole(ready)


def test_a_download_that_breaks_off_is_begun_again(ready: Project) -> None:
    with OpenAIServer(batches=({"torn": 2},)) as server:
        configure(ready, server)
        upgrade(ready)
        assert server.stats.in_batches == ROWS
        assert server.stats.answered == ORDINARY, "nothing is asked for at the full price"
    whole(ready)


def test_of_two_runs_one_sends_and_nothing_is_paid_for_twice(ready: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    uploading, waits = threading.Event(), threading.Event()
    send = BatchClient.send

    def slow_send(client: BatchClient, lines: bytes, mark: str) -> str:
        uploading.set()
        assert waits.wait(60), "the second run waits for the first"
        return send(client, lines, mark)

    def listen(event: Event) -> None:
        if isinstance(event, Notice) and "another run sends API batches" in event.text:
            waits.set()

    with OpenAIServer(batches=({"looks": 3},)) as server:
        configure(ready, server)
        with pytest.raises(AnswerIsNo):
            embedmig.upgrade(ready.opened(), no_wait=True)
        before = server.stats.answered
        monkeypatch.setattr(BatchClient, "send", slow_send)
        with ThreadPoolExecutor(2) as threads:
            first = threads.submit(upgrade, ready)
            assert uploading.wait(60)
            second = threads.submit(embedmig.backfill, ready.opened(), "docs", report=listen)
            assert second.result(60).rows == 0
            first.result(60)
        assert (len(server.api.desk.batches), server.stats.in_batches) == (1, ROWS)
        assert server.stats.answered - before <= 2 * ORDINARY, "probes and canary texts"
    whole(ready)


def test_a_claim_that_was_lost_while_its_batch_was_sent_is_noticed(
    ready: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = BatchClient.send

    def meanwhile(client: BatchClient, lines: bytes, mark: str) -> str:
        with ready.connect() as conn:
            conn.execute("delete from embedmig.batches")
        return send(client, lines, mark)

    monkeypatch.setattr(BatchClient, "send", meanwhile)
    with OpenAIServer() as server:
        configure(ready, server)
        with pytest.raises(RunSuperseded, match="gave the rows of API batch batch_0 free"):
            upgrade(ready)

"""An API that refuses, stalls or disputes, in the middle of a real run. Nothing is given up, nothing is paid for twice."""

from __future__ import annotations

import signal

import pytest

from embedmig.errors import EXIT_FAILED, EXIT_INTERRUPTED
from tests.openai_server import OpenAIServer
from tests.project import CONFIG, Project
from tests.waiting import read_until

pytestmark = pytest.mark.one_server

ROWS = 60
BEFORE = 4
"""Requests before the fault: the probe, the canary texts, and two batches."""


def api(project: Project, server: OpenAIServer, more: str = "") -> None:
    section = f'\n[embedders.openai]\nbase_url = "{server.url}"\nbatch_size = 5\nconcurrency = 2\n{more}'
    project.configure(CONFIG, section)
    project.space_script(model="openai/text-embedding-3-small", version="1", dimensions=16)


@pytest.fixture
def ready(project: Project) -> Project:
    project.documents(ROWS)
    return project


def whole(project: Project) -> None:
    """Every row has its vector, and none was given up on the way."""
    assert project.one("select count(*) from docs_embeddings") == ROWS
    assert project.one("select count(*) from embedmig.failed_rows") == 0
    assert project.one("select count(*) from embedmig.pending_changes") == 0


def test_429_to_everything_for_a_while_is_outlasted_and_counts_as_no_failed_attempt(ready: Project) -> None:
    refused = {"status": 429, "retry_after_ms": 5, "times": 200}
    with OpenAIServer(script=[{"times": BEFORE}, refused]) as server:
        api(ready, server)
        ready.run("upgrade", "head")
        assert server.stats.refusals == 200
        assert server.stats.answered == 1 + 5 + ROWS, "each text once"
        assert server.stats.sizes.keys() == {1, 5}, "whole batches, again and again"
    whole(ready)
    assert ready.rows("select status from embedmig.embedding_migrations") == [("done",)]


def test_a_retry_after_of_an_hour_ends_the_run_at_once_and_says_so(ready: Project) -> None:
    hour = {"status": 429, "retry_after": 3600, "message": "come back later", "times": 2}
    with OpenAIServer(script=[{"times": BEFORE}, hour]) as server:
        api(ready, server, "requests_per_minute = 100_000\n")
        ended = ready.run("upgrade", "head", expect=EXIT_FAILED)
        assert "asks to wait 3600 s" in ended.stderr
        assert "come back later" in ended.stderr
        assert "run the same command again" in ended.stderr
        kept = ready.one("select sum(rows_done) from embedmig.embedding_migrations")
        assert kept >= 10
        answered = server.stats.answered
        ready.run("upgrade", "head")  # the hour is over: nobody else was made to wait for it
        assert server.stats.answered - answered == 1 + 5 + ROWS - kept, "the probe, the canary texts, what was left"
    whole(ready)


def test_a_disputed_token_count_is_met_by_smaller_requests(ready: Project) -> None:
    with OpenAIServer(max_tokens_per_request=40, tokens_per_character=0.6) as server:
        api(ready, server)
        ready.run("upgrade", "head")
        assert server.stats.refusals > 0
        assert server.stats.answered == 1 + 5 + ROWS
    whole(ready)


def test_a_limit_is_kept_to_and_not_run_into(ready: Project) -> None:
    with OpenAIServer(requests_per_minute=900, burst=1.0) as server:
        api(ready, server, "requests_per_minute = 900\n")
        ready.run("upgrade", "head")
        assert server.stats.refusals == 0
    whole(ready)
    assert ready.one("select count(*) from embedmig.quotas") == 1


@pytest.mark.parametrize("signal_", [signal.SIGKILL, signal.SIGINT], ids=["killed", "Ctrl-C"])
def test_a_batch_that_is_out_when_its_run_ends_is_taken_in_by_the_next_and_paid_for_once(
    ready: Project, signal_: signal.Signals
) -> None:
    with OpenAIServer(batches=({"looks": 10_000},)) as server:
        api(ready, server, 'mode = "batch"\n')
        process = ready.start("upgrade", "head")
        read_until(process, "60 rows sent")
        process.send_signal(signal_)
        _, said = process.communicate()
        if signal_ == signal.SIGINT:
            assert process.returncode == EXIT_INTERRUPTED
            assert "1 batch goes on at the API" in said
            assert "run the same command again" in said
        server.api.desk.looks_left["batch_0"] = 0
        ready.run("upgrade", "head")
        assert len(server.api.desk.batches) == 1
        assert server.stats.in_batches == ROWS
        assert server.stats.answered == 2 * (1 + 5)
    whole(ready)

"""Limits that workers share through a real database; and what a server says of tokens, against the local server."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from embedmig.config.settings import ConnectSettings
from embedmig.database import Database, schema
from embedmig.embedders import EmbedderSettings
from embedmig.embedders.encoder import Encoded, Encoder
from embedmig.embedders.openai import OpenAIEmbedder
from embedmig.embedders.pacing import Pacer, Policy, RateLimitHeaders
from embedmig.embedders.pacing.limits import SECONDS_PER_MINUTE
from embedmig.embedders.shared_limits import SLICE_SECONDS, SharedRateBudget, Traffic
from embedmig.types import Space
from tests.openai_server import OpenAIServer

pytestmark = pytest.mark.with_ledger

RATE = 100_000.0  # tokens a second
LIMITS = EmbedderSettings(api_key="sk-very-secret", tokens_per_minute=round(RATE * SECONDS_PER_MINUTE))
SPACE = Space("docs", "openai/text-embedding-3-small", "1", 16)


class Worker:
    """A worker whose waits are written down and not waited for: ``granted`` is when, in seconds from its first."""

    def __init__(self, database: Database, traffic: Traffic = "bulk", settings: EmbedderSettings = LIMITS) -> None:
        self.waits: list[float] = []
        self.budget = SharedRateBudget(database, settings, "openai", traffic, sleep=self._note)

    async def _note(self, seconds: float) -> None:
        self.waits.append(seconds)

    def takes(self, tokens: float) -> float:
        """The seconds that it had to wait for so many tokens."""
        before = len(self.waits)
        asyncio.run(self.budget.take(tokens))
        return sum(self.waits[before:])

    def close(self) -> None:
        asyncio.run(self.budget.aclose())


@pytest.fixture
def database(url: str) -> Database:
    made = Database(url, "embedmig")
    schema.upgrade(made)
    return made


@pytest.fixture
def workers(database: Database) -> Iterator[Any]:
    made: list[Worker] = []

    def make(traffic: Traffic = "bulk", settings: EmbedderSettings = LIMITS) -> Worker:
        made.append(Worker(database, traffic, settings))
        return made[-1]

    yield make
    for worker in made:
        worker.close()


def test_workers_together_are_given_no_more_than_the_limit(workers: Any) -> None:
    three = [workers() for _ in range(3)]
    waits = [worker.takes(100 * RATE) for _ in range(3) for worker in three]
    assert waits[0] == 0.0
    assert waits == sorted(waits)
    assert waits[-1] == pytest.approx(800, abs=30), "eight times a hundred seconds' worth is given out before it"


def test_a_worker_that_dies_takes_its_slice_and_no_more(workers: Any, database: Database) -> None:
    dies, lives = workers(), workers()
    dies.takes(10)
    dies.budget._conn.close()
    assert lives.takes(10 * RATE) <= SLICE_SECONDS


def test_what_was_not_used_is_given_back(workers: Any) -> None:
    one, other = workers(), workers()
    one.takes(100 * RATE)
    one.budget.give_back(90 * RATE)
    one.close()
    other.takes(1)
    assert other.takes(RATE) == pytest.approx(10, abs=5)


def test_an_idle_time_is_not_spent_in_one_burst(workers: Any, conn: psycopg.Connection) -> None:
    worker = workers()
    worker.takes(1)
    conn.execute("update embedmig.quotas set tokens_at = now() - interval '1 hour', bulk_tokens_at = tokens_at")
    worker.takes(100 * RATE)
    assert worker.takes(RATE) == pytest.approx(99, abs=3)


def test_live_traffic_goes_before_a_backfill_and_is_left_its_share(workers: Any, database: Database) -> None:
    bulk, live = workers(), workers("live")
    for _ in range(10):
        bulk.takes(RATE)  # nine seconds ahead
    assert live.takes(RATE) == 0.0
    before = bulk.takes(RATE)
    for _ in range(8):
        bulk.takes(RATE)
    assert bulk.takes(RATE) - before == pytest.approx(9 / 0.8, abs=1.5), "a fifth is left while there is live traffic"


def test_whoever_is_asked_to_wait_makes_all_wait(workers: Any) -> None:
    told, other = workers(), workers()
    told.takes(1)
    asyncio.run(told.budget.hold(30.0))
    assert other.takes(RATE) == pytest.approx(30, abs=5)


def test_a_limit_that_only_the_api_tells_is_shared_too(workers: Any) -> None:
    unlimited = EmbedderSettings(api_key="sk-very-secret")
    one, other = workers(settings=unlimited), workers(settings=unlimited)
    assert one.takes(1000 * RATE) == 0.0
    limit = RATE * SECONDS_PER_MINUTE
    for worker in (one, other):
        worker.budget.observe(RateLimitHeaders("tokens", limit, limit / 2, reset=30.0))
    one.takes(100 * RATE)
    assert other.takes(RATE) == pytest.approx(99, abs=3)


def test_each_key_has_a_quota_of_its_own_and_is_never_written_down(workers: Any, conn: psycopg.Connection) -> None:
    other = EmbedderSettings(api_key="sk-other", tokens_per_minute=LIMITS.tokens_per_minute)
    workers().takes(100 * RATE)
    assert workers(settings=other).takes(RATE) == 0.0
    rows = conn.execute("select * from embedmig.quotas").fetchall()
    assert len(rows) == 2
    assert "secret" not in str(rows)
    assert "sk-" not in str(rows)


def test_where_there_is_no_ledger_the_limits_are_kept_to_alone(url: str) -> None:
    worker = Worker(Database(url, "embedmig"))
    assert worker.takes(100 * RATE) == 0.0
    assert worker.takes(1) == pytest.approx(99, abs=3)
    worker.close()


def test_a_role_that_only_reads_keeps_to_the_limits_alone(database: Database, conn: psycopg.Connection) -> None:
    role = f"r_{conn.info.dbname}"
    conn.execute(f"create role {role}; grant usage on schema embedmig to {role}")  # type: ignore[arg-type]
    conn.execute(f"grant select on all tables in schema embedmig to {role}")  # type: ignore[arg-type]
    worker = Worker(Database(database.url, "embedmig", ConnectSettings(role=role)))
    assert worker.takes(100 * RATE) == 0.0
    conn.execute(f"drop owned by {role}; drop role {role}")  # type: ignore[arg-type]
    assert conn.execute("select count(*) from embedmig.quotas").fetchone() == (0,)
    worker.close()


# --- through the embedder -------------------------------------------------------------------------------------


def encode(server: OpenAIServer, database: Database, texts: list[str], traffic: Traffic = "bulk") -> Encoded:
    """As one worker does it, in a loop of its own."""
    settings = EmbedderSettings(
        base_url=server.url, batch_size=8, concurrency=8,
        tokens_per_minute=server.api.options.tokens_per_minute, reserve=0.0,
    )  # fmt: skip
    embedder = OpenAIEmbedder(SPACE, settings, Pacer(concurrency=8, policy=Policy(base=0.01, cap=0.1)))
    embedder.share(SharedRateBudget(database, settings, "openai", traffic))

    async def main() -> Encoded:
        try:
            return await Encoder(SPACE, embedder).encode(texts)
        finally:
            await embedder.aclose()

    return asyncio.run(main())


@pytest.mark.parametrize("workers", [1, 3])
def test_fewer_than_one_request_in_a_hundred_is_refused(workers: int, database: Database) -> None:
    texts = [f"{number} of ordinary length " * 8 for number in range(1200)]
    with OpenAIServer(dimensions=16, tokens_per_minute=1_500_000, burst=2.0) as server:
        done: list[Encoded] = []
        threads = [
            threading.Thread(target=lambda mine=texts[n::workers]: done.append(encode(server, database, mine)))  # type: ignore[misc]
            for n in range(workers)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(len(encoded.vectors) for encoded in done) == 1200
        assert server.stats.refusals < 0.01 * server.stats.requests
        assert server.stats.tokens > 1_500_000 * 2 / 60, "less than the server had saved up proves nothing"

"""Nothing is paid for twice: equal texts are sent once, whoever has them, counted by the server."""

from __future__ import annotations

import asyncio
from collections import Counter

import numpy as np
import psycopg
import pytest

import embedmig
from embedmig.embedders import PROBE_TEXT
from embedmig.embedders.encoder import Encoder
from embedmig.embedders.model_check import TEXTS
from embedmig.engine.once import ENTRY_BYTES, TextsOnce
from embedmig.engine.repeats import CopyRepeats
from embedmig.testing import FakeEmbedder, fake_space, fake_vectors
from tests.in_process import Fake, space_script, spaces, upgrade
from tests.openai_server import OpenAIServer
from tests.project import CONFIG, Project
from tests.waiting import wait_until

pytestmark = pytest.mark.with_ledger

ROWS, IN_FLIGHT = 400, 2 * 3 * 5  # workers, requests of each that are out or being written, texts of each


def repeating(conn: psycopg.Connection) -> int:
    """``documents`` of which 30 % have the text of another row; returns how many texts there are."""
    conn.execute("create table documents (id bigint primary key, title text, body text)")
    conn.execute(
        "insert into documents select n, 'title', 'text ' || case when n %% 10 < 3 then n %% 40 * 10 + 5 else n end "
        "from generate_series(1, %s) n",
        (ROWS,),
    )
    row = conn.execute("select count(distinct (title, body)) from documents").fetchone()
    assert row is not None
    return int(row[0])


def api(project: Project, server: OpenAIServer) -> None:
    section = f'\n[embedders.openai]\nbase_url = "{server.url}"\nbatch_size = 5\nconcurrency = 2\n\n[backfill]\nrange_rows = 40\n'
    project.configure(CONFIG, section)
    project.space_script(model="openai/text-embedding-3-small", version="1", dimensions=16)


def paid(server: OpenAIServer) -> Counter[str]:
    """How often the server was sent each text; those that test it are left out."""
    return Counter({text: times for text, times in server.stats.seen.items() if text not in (PROBE_TEXT, *TEXTS)})


def whole(project: Project) -> None:
    """Every row has the vector of its text, and equal texts have equal vectors."""
    table = project.one("select table_name from embedmig.spaces")
    assert project.one(f"select count(*) from embedmig.{table}") == project.one("select count(*) from documents")
    unequal = project.rows(f"select content_hash from embedmig.{table} group by 1 having count(distinct embedding) > 1")
    assert unequal == []
    assert project.one("select count(*) from embedmig.repeats") == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_texts_sent_are_as_many_as_there_are_texts_with_one_worker_and_with_two(
    project: Project, conn: psycopg.Connection, workers: int
) -> None:
    texts = repeating(conn)
    assert texts == 0.7 * ROWS
    with OpenAIServer() as server:
        api(project, server)
        project.run("upgrade", "--workers", str(workers))
        sent = paid(server)
        assert sent.total() / texts == 1.00
        assert len(sent) == texts
    whole(project)


def test_a_run_killed_by_the_system_pays_for_what_was_in_flight_and_no_more(
    project: Project, conn: psycopg.Connection
) -> None:
    texts = repeating(conn)
    with OpenAIServer(latency=0.02) as server:
        api(project, server)
        process = project.start("upgrade", "--workers", "2")
        wait_until(lambda: paid(server).total() > texts / 3, "a third is embedded")
        process.kill()
        process.wait()
        project.run("upgrade", "--workers", "2")
        sent = paid(server)
        assert len(sent) == texts
        assert sent.total() <= texts + IN_FLIGHT
    whole(project)


def test_where_the_row_that_was_to_be_embedded_is_edited_the_others_are_embedded_after_all(
    project: Project, conn: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = Fake().register()
    conn.execute("create table documents (id bigint primary key, title text, body text)")
    conn.execute("insert into documents select n, 'same', 'text' from generate_series(1, 5) n")
    conn.execute("insert into documents values (6, 'other', 'text')")
    space_script(project)
    run = CopyRepeats.run

    def edited(self: CopyRepeats) -> object:
        if not fake.seen["edited\n\ntext"]:
            conn.execute("update documents set title = 'edited' where id = 1")
            embedmig.sync(project.opened())
        return run(self)

    monkeypatch.setattr(CopyRepeats, "run", edited)
    upgrade(project)
    embedmig.sync(project.opened())
    whole(project)
    assert fake.seen == {"same\n\ntext": 2, "other\n\ntext": 1, "edited\n\ntext": 1}


@pytest.mark.parametrize("store", ["", ', store="near"'])
def test_an_edit_of_one_chunk_in_fifty_sends_one_text(project: Project, conn: psycopg.Connection, store: str) -> None:
    fake = Fake().register()
    project.configure(CONFIG, f'\n[stores.near]\nkind = "memory"\nurl = "{project.folder / "near.db"}"\n')
    conn.execute("create table documents (id bigint primary key, title text, body text)")
    conn.execute(
        "insert into documents select d, null, string_agg('row ' || d || ' part ' || (100 + n), ' ' order by n) "
        "from generate_series(1, 2) d, generate_series(1, 50) n group by d"
    )
    space_script(project, more="chunk={'size': 15}" + store)
    upgrade(project)
    assert fake.seen.total() == 100
    fake.made.clear()
    conn.execute("update documents set body = replace(body, 'part 117', 'part 999') where id = 1")
    embedmig.sync(project.opened())
    assert fake.seen == {"row 1 part 999": 1}
    fake.made.clear()
    conn.execute("update documents set body = replace(body, 'part 999', 'part 117') || ' row 1 part 888' where id = 1")
    embedmig.sync(project.opened())
    assert fake.seen == {"row 1 part 117": 1, "row 1 part 888": 1}
    assert project.one("select count(*) from embedmig.chunk_digests") == 2
    if not store:
        expected_chunks(project)


def expected_chunks(project: Project) -> None:
    """Every chunk has the vector of its own text."""
    table = project.one("select table_name from embedmig.spaces")
    found = project.rows(
        f"select substring(body from chunk_start + 1 for chunk_end - chunk_start), embedding::real[] "
        f"from embedmig.{table} e join documents d using (id)"
    )
    assert len(found) == 101
    wanted = fake_vectors([text for text, _ in found], 8)
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    assert np.allclose(np.array([vector for _, vector in found]), wanted, atol=1e-5)


def test_an_answer_is_shared_by_all_who_wait_for_the_text_and_memory_has_a_bound() -> None:
    embedder = FakeEmbedder()
    once = TextsOnce(Encoder(fake_space(), embedder), most_bytes=4 * (8 * 4 + ENTRY_BYTES))

    async def ask() -> None:
        both = await asyncio.gather(once.encode(["a", "b", "a"]), once.encode(["b", "c"]))
        assert [sent for _, sent in both] == [["a", "b"], ["c"]]
        assert np.array_equal(both[0][0].vectors[0], both[0][0].vectors[2])
        assert np.array_equal(both[0][0].vectors[1], both[1][0].vectors[0])
        for text in "defg":
            await once.encode([text])
        assert (await once.encode(["g", "a"]))[1] == ["a"], "what was used last is remembered"

    asyncio.run(ask())


ANEW = """
from embedmig import Space, op

revision = "0002"
down_revision = "0001"
NEW = Space(collection="articles", model="openai/text-embedding-3-small", version="1", dimensions=16{more})


def upgrade() -> None:
    op.create_space(NEW)
    op.backfill(NEW)
    op.gate(NEW, completeness=1.0)
    op.flip_alias("articles", to=NEW)


def downgrade() -> None:
    op.flip_alias("articles", to=None)
"""
ARTICLES = """
[collections.articles]
table = "documents"
key = "uid"
text = ["title", "body"]
alias = "articles_embeddings"
where = "uid <> 'u-1'"
"""


@pytest.mark.parametrize("more", ["", ", chunk={'size': 15}, storage='halfvec'"])
def test_another_key_a_wider_where_and_rows_that_move_send_new_texts_alone(
    project: Project, conn: psycopg.Connection, more: str
) -> None:
    """Counted by the server; the vectors are those that it has sent."""
    conn.execute("create table documents (id bigint primary key, title text, body text, uid text unique)")
    conn.execute(
        "insert into documents select n, null, format('row %s part 1 row %s part 2', n + 100, n + 100), 'u-' || n from generate_series(1, 30) n"
    )
    with OpenAIServer() as server:
        api(project, server)
        section = (project.folder / "embedmig.toml").read_text()
        project.configure(section.replace('key = "id"', 'key = "id"\nwhere = "id <= 20 or id > 1000"'))
        space = more.lstrip(", ")
        project.space_script(model="openai/text-embedding-3-small", version="1", dimensions=16, more=space)
        upgrade(project)
        first = paid(server)
        assert len(first) == first.total() >= 20

        project.configure(section.replace('key = "id"', 'key = "id"\nwhere = "id <= 25 or id > 1000"'))
        embedmig.sync(project.opened(), repair=True)
        wider = paid(server)
        assert len(wider) == wider.total()

        conn.execute("update documents set id = id + 1000 where id <= 10")
        embedmig.sync(project.opened())
        assert paid(server) == wider

        project.configure(section.replace('key = "id"', 'key = "id"\nwhere = "id <= 25 or id > 1000"') + ARTICLES)
        project.script("0002_articles.py", ANEW.format(more=more))
        assert embedmig.dry_run(project.opened())[0].operations[1].estimate.rows == 5
        upgrade(project)
        every = paid(server)
        assert len(every) == every.total()
    outcome = project.one(
        "select outcome from embedmig.embedding_operations where kind = 'backfill' and outcome like '%carried%'"
    )
    assert outcome == "24 rows carried from versions that have their texts, 5 rows embedded"
    old, new = (row[0] for row in project.rows("select table_name from embedmig.spaces order by id"))
    same = "select uid, chunk, o.content_hash, o.embedding::text from embedmig.{} o join documents using ({}) where uid <> 'u-1' and (id <= 25 or id > 1000) order by 1, 2"
    assert project.rows(same.format(old, "id")) == project.rows(same.format(new, "uid")) != []
    assert {one.completeness for one in spaces(project)} | {
        one.completeness for one in spaces(project, "articles")
    } == {1.0}

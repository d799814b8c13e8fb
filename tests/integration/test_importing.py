"""``embedmig import``: texts that an application has in a store's payload alone become a table, and its vectors an adopted version."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import psycopg
import pytest

import embedmig
from embedmig import Imported, Interrupted, PlanError, Reader, UsageError
from embedmig.stores.external import Held
from embedmig.testing import MemoryStore
from tests.applications import InMemory, Point, articles
from tests.in_process import Fake, spaces, tag, upgrade
from tests.project import Project

TEXTS = {n: f"text of article {n}" for n in range(60)}
BARE = '[embedmig]\ndatabase = "env:TEST_DATABASE_URL"\n\n[stores.near]\nkind = "memory"\nurl = "{file}"\n'
ASKED: dict[str, Any] = {
    "store": "near", "collection": "articles_v1", "key": "payload.article_id", "text": ["payload.body"],
    "columns": ["payload.year:bigint", "payload.tags:jsonb"], "fields": {"model": "fake/hash", "version": "1"},
}  # fmt: skip


@pytest.fixture
def theirs(project: Project) -> InMemory:
    """Sixty articles in a store, and a project that has no collection."""
    Fake().register()
    file = project.folder / "near.db"
    project.configure(BARE.format(file=file))
    found = InMemory("articles_v1", Path(file))
    found.make()
    found.put(articles(range(60), TEXTS, year=2020, tags=["a", "b"]))
    return found


def imported(project: Project, **more: Any) -> Imported:
    return embedmig.import_collection(project.opened(), "articles", **(ASKED | more))


def test_texts_become_a_table_a_collection_and_a_script_and_the_vectors_are_found(
    project: Project, theirs: InMemory
) -> None:
    theirs.put([
        Point(70, "no key", {"body": "x"}), Point(71, "no text", {"article_id": 71}), Point(72, "blank", {"article_id": 72, "body": " "}),
        Point(90, "twice", {"article_id": 5, "body": "twice"}),
    ])  # fmt: skip
    done = imported(project)
    assert (done.points, done.new, done.changed, done.gone) == (64, 60, 0, 0)
    assert (done.without_key, done.without_text, done.duplicates) == (1, 2, 1)
    assert done.examples == {"without_key": ["70"], "without_text": ["71", "72"], "duplicates": ["5"]}
    query = "select article_id, body, year, tags from articles where article_id = '7'"
    assert project.rows(query) == [("7", TEXTS[7], 2020, ["a", "b"])]
    assert done.script is not None
    assert "unmatched=0.0625" in done.script.read_text()
    upgrade(project)
    assert spaces(project, "articles")[0].complete == 60
    with Reader(project.url, "articles", stores=project.opened().config.stores) as reader:
        hit = reader.search(TEXTS[7], k=1, where={"year": 2020})[0]
    assert (hit.key, hit.version) == (("7",), tag(8) + "/on-near")


def test_run_again_it_takes_in_what_is_new_changed_or_gone_and_writes_no_other_row(
    project: Project, theirs: InMemory, conn: psycopg.Connection
) -> None:
    first = imported(project)
    written = dict(project.rows("select article_id, xmin::text from articles"))
    theirs.put(articles([60, 61], {60: "new", 61: "new"}, year=2021))
    theirs.put(articles([3], {3: "edited"}, year=2020))
    theirs.remove(4)
    again = imported(project, fields={})
    assert (again.points, again.new, again.changed, again.gone) == (61, 2, 1, 1)
    assert (again.configured, again.script) == (None, None)
    assert first.script is not None
    after = dict(project.rows("select article_id, xmin::text from articles"))
    assert {key for key, mark in after.items() if written.get(key) != mark} == {"60", "61", "3"}
    assert "4" not in after
    assert (project.folder / "embedmig.toml").read_text().count("[collections.articles]") == 1


def test_stopped_in_the_middle_it_is_finished_by_the_same_command(
    project: Project, theirs: InMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_ten(monkeypatch)
    stop = threading.Event()
    with pytest.raises(Interrupted):
        imported(project, stop=stop, report=lambda _: stop.set())
    assert project.one("select count(*) from articles") == 10
    assert "collections" not in (project.folder / "embedmig.toml").read_text()
    assert (imported(project).new, project.one("select count(*) from articles")) == (50, 60)


def by_ten(monkeypatch: pytest.MonkeyPatch) -> None:
    """The store's listing comes in pages of ten points."""
    whole = MemoryStore.held

    def held(store: MemoryStore, fields: Any = ()) -> Any:
        points: list[Held] = [point for page in whole(store, fields) for point in page]
        return (points[start : start + 10] for start in range(0, len(points), 10))

    monkeypatch.setattr(MemoryStore, "held", held)


def test_a_listing_that_is_not_complete_removes_no_row(
    project: Project, theirs: InMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    imported(project)
    monkeypatch.setattr(MemoryStore, "total", lambda _: 80)
    theirs.remove(4)
    done = imported(project)
    assert done.gone == 0
    assert "lists 59 points and counts 80: no row was removed" in done.problem
    assert project.one("select count(*) from articles") == 60


@pytest.mark.parametrize(
    ("asked", "refusal", "said"),
    [
        ({"collection": "nothing"}, UsageError, "'nothing' is not in near"),
        ({"store": "far"}, UsageError, r"there is no \[stores.far\]"),
        ({"text": []}, UsageError, "--text is needed"),
        ({"text": ["body"]}, UsageError, "no field of a payload"),
        ({"key": "article_id"}, PlanError, "neither the point's id nor a field"),
        ({"columns": ["payload.body"]}, UsageError, "two columns would be called 'body'"),
        ({"fields": {}}, UsageError, "--model and --model-version are needed"),
        ({"columns": ["payload.body2", "payload.tags:bigint"]}, UsageError, "not of its column's type"),
        ({"table": "theirs"}, PlanError, "is there already, and is not imported by embedmig"),
    ],
)
def test_what_can_not_be_imported_is_said_and_nothing_of_the_users_is_touched(
    project: Project,
    theirs: InMemory,
    conn: psycopg.Connection,
    asked: dict[str, Any],
    refusal: type[Exception],
    said: str,
) -> None:
    conn.execute("create table theirs (id text primary key)")
    conn.execute("insert into theirs values ('kept')")
    with pytest.raises(refusal, match=said):
        imported(project, **asked)
    assert project.rows("select * from theirs") == [("kept",)]
    assert "collections" not in (project.folder / "embedmig.toml").read_text()


def test_by_the_id_and_as_a_command(project: Project, theirs: InMemory) -> None:
    command = ["import", "notes", "--store", "near", "--collection", "articles_v1", "--text", "payload.body"]
    done = project.run(*command, "--model", "wordllama/l2-supercat", "--model-version", "0.4")
    assert "notes: 60 points; 60 rows new, 0 changed, 0 gone" in done.stdout
    assert "wrote embedmig.toml" in done.stdout.replace(str(project.folder) + "/", "")
    assert project.one("select count(*) from notes where id = '7'") == 1
    project.run("upgrade", "head")
    assert project.json("status")["collections"]["notes"]["spaces"][0]["complete"] == 60

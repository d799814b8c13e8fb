"""What users hang into a run: a gate's condition of their own, and a command after each flip."""

from __future__ import annotations

import json

import psycopg
import pytest

import embedmig
from embedmig.gates.own_condition import own_condition
from tests.in_process import Fake, space_script, tag, upgrade
from tests.project import CONFIG, Project

HOOKED = """
[hooks]
after_flip = "cat >> told.jsonl; echo >> told.jsonl; test ! -e broken || { echo 'no such channel' >&2; exit 7; }"
"""


def test_a_gate_asks_the_users_own_query_and_a_hook_hears_of_the_flip_and_can_undo_nothing(project: Project) -> None:
    Fake().register()
    project.documents(5)
    project.configure(CONFIG, HOOKED)
    space_script(project)
    path = project.migrations / "0001_space.py"
    gate = "op.gate(NEW, completeness=0.995"
    assert gate in path.read_text()
    path.write_text(path.read_text().replace(gate, gate + ', sql="select not open from incidents"'))
    with project.connect() as conn:
        conn.execute("create table incidents (open bool); insert into incidents values (true)")
    opened = project.opened()

    with pytest.raises(embedmig.GateClosed, match="sql is false; required: true"):
        upgrade(project)
    assert embedmig.gate(opened, "docs")[-1] == embedmig.Verdict(
        "sql", "false", "true", False, "select not open from incidents"
    )
    kept = "select gates from embedmig.embedding_migrations order by id desc limit 1"
    assert [one["value"] for one in project.one(kept) if one["name"] == "sql"] == ["false"]
    told = project.folder / "told.jsonl"
    assert not told.exists(), "nothing was flipped"

    with project.connect() as conn:
        conn.execute("update incidents set open = false")
    upgrade(project)
    (project.folder / "broken").touch()
    said: list[object] = []
    embedmig.downgrade(project.opened(), "base", report=said.append)
    first, second = map(json.loads, told.read_text().splitlines())
    assert first == {
        "schema": 1, "event": "after_flip", "revision": "0001", "flips": [{"collection": "docs", "from": None, "to": tag()}],
    }  # fmt: skip
    assert second["flips"] == [{"collection": "docs", "from": tag(), "to": None}]
    assert "the hook after_flip ended with exit code 7: no such channel; the flip stands" in str(said)
    assert embedmig.status(project.opened()).collections["docs"].active is None


UNANSWERED = {
    "create table t ()": "read-only transaction",
    "commit; drop table documents": "multiple commands",
    "select 1": "one boolean",
    "select true from generate_series(1, 2)": "one row",
    "select pg_sleep(5) is null": "timeout",
    "select null::bool": "select null::bool",
}


def test_a_query_that_gives_no_answer_keeps_the_gate_closed_and_changes_nothing(
    conn: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embedmig.gates.own_condition.SECONDS", 1)
    conn.execute("create table documents ()")
    for statement, why in UNANSWERED.items():
        found = own_condition(conn, statement)
        assert not found.passed
        assert why in found.advice
    there = conn.execute("select relname from pg_class where relname in ('t', 'documents')").fetchall()
    assert there == [("documents",)]

"""The main job through the installed command: forward, searched, back, forward again."""

from __future__ import annotations

from tests.project import NEW_TAG, OLD_TAG, Project


def test_a_corpus_moves_to_a_new_model_and_back_and_forward_without_embedding_twice(project: Project) -> None:
    project.documents()
    project.two_spaces()

    project.run("upgrade", "head")
    status = project.json("status", "--check")
    docs = status["collections"]["docs"]
    assert status["current"] == status["heads"] == ["0002"]
    assert docs["active"] == NEW_TAG
    assert [(s["state"], s["rows"], s["complete"], s["index"]) for s in docs["spaces"]] == [
        ("retained", 50, 50, "valid"),
        ("active", 50, 50, "valid"),
    ]

    back = project.json("downgrade", "-1")
    assert back["current"] == ["0001"]
    assert project.json("search", "docs", "supersonic flutter")["version"] == OLD_TAG

    project.run("upgrade", "head")
    assert project.json("search", "docs", "supersonic flutter")["version"] == NEW_TAG
    assert project.one("select rows_done from embedmig.embedding_migrations order by id desc limit 1") == 0


def test_a_second_upgrade_does_nothing_and_exits_0(project: Project) -> None:
    project.documents()
    project.two_spaces()
    project.run("upgrade", "head")
    again = project.run("upgrade", "head")
    assert "nothing to do" in again.stderr
    assert again.stdout == ""

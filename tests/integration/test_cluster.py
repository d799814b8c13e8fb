"""Workers on a local Ray cluster: the sum is the same as with one, also when one of them is killed."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psycopg
import pytest

from tests.integration.test_workers import IN_FLIGHT, RANGES, ROWS, at_work, ended, expect_the_sum_of_one
from tests.model import Model
from tests.project import Project

pytestmark = pytest.mark.one_server

pytest.importorskip("ray", reason='Ray is not installed: pip install "embedmig[ray]"', exc_type=ImportError)


def test_a_cluster_does_what_one_worker_does_though_a_worker_of_it_is_killed(
    project: Project, conn: psycopg.Connection
) -> None:
    project.documents(ROWS)
    others = '[embedders.openai]\napi_key = "env:OTHERS_KEY"\n'
    model = Model(project, more=f"{RANGES}\n[ray]\nworkers = 3\nnum_cpus = 0.1\n{others}")
    project.environment["OTHERS_KEY"] = "sk-others"
    with at_work(project, model, conn, "upgrade --executor ray", workers=3) as ((upgrade,), found):
        assert upgrade.pid not in found
        assert not any(b"sk-others" in Path(f"/proc/{pid}/environ").read_bytes() for pid in found)
        os.kill(max(found), signal.SIGKILL)
    said = ended(upgrade)
    assert "of the cluster ended: " in said
    assert f"{ROWS} rows embedded" in said
    expect_the_sum_of_one(project, conn)
    assert len(model.asked) <= ROWS + IN_FLIGHT

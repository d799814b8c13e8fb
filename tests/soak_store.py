"""The part of :mod:`tests.soak` that is another where the vectors are in a store beside PostgreSQL."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg

import embedmig
from embedmig import Reader
from tests.project import Project

if TYPE_CHECKING:
    from tests.soak import Stage

OPPOSITE = 1.0
"""Vectors of one model are nearer to each other, in cosine distance, than any of the two models are to each other."""


def read(folder: Path, stage: Stage, number: int, out: Any) -> None:
    """Searches through ``Reader`` until the end, and checks every answer."""
    from tests.soak import Counts, Spent

    sys.path.insert(0, str(folder))  # the model is there
    counts, dice = Counts(), random.Random(number)
    with Reader(stage.url, "docs", stores=stage.stores) as reader, psycopg.connect(stage.url) as conn:
        spent = Spent(conn.info.backend_pid)
        while not stage.ended.value:
            phase = stage.phase.value
            spent.start()
            try:
                hits = reader.search(f"query {dice.random()}", 10)
            except (embedmig.EmbedmigError, psycopg.Error) as error:
                counts.failed_reads += 1
                counts.errors.append(f"read: {type(error).__name__}: {error}"[:300])
                continue
            counts.reads += 1
            counts.reads_over_100_ms[phase] += counts.timed(f"reader {number}", counts.reader_pause_ms, phase, spent)
            counts.mixed_reads += len({hit.version for hit in hits}) > 1 or any(hit.distance > OPPOSITE for hit in hits)
            counts.reads_of_deleted_rows += any(0 < stage.deleted[hit.key[0]] < spent.began for hit in hits)
    out.put(counts)


def check_at_rest(project: Project, versions: list[str]) -> None:
    """Store, manifest and source agree, columns too; nothing that killed processes left is there."""
    from tests.acceptance.test_external import expect_as_undisturbed, opened_store

    project.run("sync", "--repair", timeout=300)
    titles = {str(key): title for key, title in project.rows("select id, title from documents")}
    for version in versions:
        expect_as_undisturbed(project, version)
        held = (point.payload for page in opened_store(project, version).held(None) for point in page)
        assert {payload["embedmig_key"][0]: payload["title"] for payload in held} == titles

"""Twenty seconds of the soak (``make soak`` runs ten minutes): real processes, real kills, an oracle for every read."""

from __future__ import annotations

import pytest

from tests.project import Project
from tests.soak import soak

pytestmark = pytest.mark.one_server

PAUSE_MS = 2000  # of a test machine shared with other tests; the soak itself prints what it measured


def test_readers_and_writers_at_full_speed_notice_nothing_of_migrations_and_kills(project: Project) -> None:
    counts = soak(project, seconds=20)
    assert counts.errors == []
    assert (counts.failed_reads, counts.mixed_reads, counts.reads_of_deleted_rows, counts.failed_writes) == (0, 0, 0, 0)
    assert min(counts.reads, counts.writes) > 100
    assert counts.reranked_reads > 0
    assert (counts.texts_sent_twice, counts.texts_sent <= counts.rows_asked) == (0, True), "reading pays for a row once"
    assert max(*counts.reader_pause_ms, *counts.writer_pause_ms) < PAUSE_MS

"""Promise 10: a worse search is visible, wherever somebody looks, and never in green."""

from __future__ import annotations

import io
import re
from datetime import UTC, datetime

import pytest
from rich.console import Console

import embedmig
from embedmig.errors import GateClosed
from embedmig.report.page import page
from embedmig.report.prometheus import exposition
from embedmig.report.tables import quality_line, status_table
from tests.in_process import Fake, tag
from tests.project import OLD_TAG, Project

BAD = """
from embedmig import Space, op, within

revision = "0002"
down_revision = "0001"
NEW = Space(collection="docs", model="fake/hash", version="1", dimensions=8)


def upgrade() -> None:
    op.create_space(NEW)
    op.backfill(NEW)
    op.gate(NEW, completeness=0.995{quality})
    op.flip_alias("docs", to=NEW)


def downgrade() -> None:
    op.flip_alias("docs", to="{old}")
"""


@pytest.fixture
def corpus(project: Project) -> Project:
    """Documents found by a real model, a golden set, and a model beside it whose vectors mean nothing."""
    Fake().register()
    project.documents(60)
    project.two_spaces()
    embedmig.upgrade(project.opened(), "0001")
    embedmig.make_golden(project.opened(), "docs", 40)
    return project


def coloured(shown: object) -> str:
    """As a terminal with colours has it."""
    out = io.StringIO()
    Console(file=out, width=400, force_terminal=True, color_system="standard").print(shown)
    return out.getvalue()


def test_a_collapse_of_quality_is_red_in_status_report_metrics_and_after_the_upgrade(corpus: Project) -> None:
    corpus.script("0002_space.py", BAD.format(quality="", old=OLD_TAG))
    first = embedmig.upgrade(corpus.opened())
    assert first.quality["docs"].answer == "not measured"
    embedmig.evaluate(corpus.opened(), "docs")
    found = embedmig.status(corpus.opened())
    quality = found.collections["docs"].quality
    assert quality is not None
    assert (quality.answer, quality.version, quality.of) == ("worse", tag(), OLD_TAG)
    assert quality.difference is not None
    assert quality.low is not None
    assert quality.high is not None
    assert quality.low <= quality.difference <= quality.high < 0
    assert not found.settled
    assert corpus.run("status", "--check", expect=3)
    red = "\x1b[1;31mquality worse than "
    assert red in coloured(status_table(found))
    html = page(embedmig.gather_report(corpus.opened()), now=datetime.now(UTC))
    assert re.search(r'<p class="bad" data-figure="quality">quality: worse than ', html)
    assert "embedmig downgrade -1 goes back" in html
    worse = f'embedmig_quality_worse{{collection="docs",version="{tag()}",of="{OLD_TAG}"}} 1'
    assert worse in exposition(found)
    back = embedmig.downgrade(corpus.opened(), "-1")
    assert back.quality["docs"].answer == "better"
    again = embedmig.upgrade(corpus.opened())
    assert again.quality["docs"].answer == "worse"
    assert "\x1b[1;31mdocs: quality worse than" in coloured(quality_line(again.quality["docs"], "docs: quality"))


def test_a_gate_that_asks_for_quality_measures_it_itself_and_stays_closed(corpus: Project) -> None:
    corpus.script("0002_space.py", BAD.format(quality=f', ndcg_at_10=within(0.01, of="{OLD_TAG}")', old=OLD_TAG))
    with pytest.raises(GateClosed, match=r"ndcg@10 [\d.]+ is below the required"):
        embedmig.upgrade(corpus.opened())
    assert corpus.one("select version from embedmig.aliases") == OLD_TAG
    assert corpus.one("select count(distinct version) from embedmig.evals") == 2
    found = embedmig.status(corpus.opened()).collections["docs"]
    assert found.active == OLD_TAG


def test_a_version_that_nobody_measured_is_not_shown_in_green(corpus: Project) -> None:
    found = embedmig.status(corpus.opened())
    quality = found.collections["docs"].quality
    assert quality is not None
    assert quality.answer == "not measured"
    assert "embedmig eval docs" in quality.words
    assert "\x1b[33mquality not measured" in coloured(status_table(found))

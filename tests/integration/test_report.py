"""The report says what ``status`` says, escapes what users wrote, opens in a browser, and works on an empty ledger."""

from __future__ import annotations

import re
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

from embedmig import commands
from embedmig.report.page import page
from embedmig.report.prometheus import HELP, exposition
from tests.project import NEW_TAG, Project

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def html_of(project: commands.Project) -> str:
    """The page as the command writes it."""
    return page(commands.report(project), now=datetime.now(UTC))


@pytest.fixture
def moved(project: Project) -> Project:
    """Two spaces, both applied."""
    project.documents(20)
    project.two_spaces()
    commands.upgrade(project.opened())
    return project


def test_the_figures_are_those_of_status(moved: Project) -> None:
    html = html_of(moved.opened())
    found = commands.status(moved.opened())
    shown = dict(re.findall(r'data-version="([^"]+)" data-completeness="([^"]+)"', html))
    assert {space.version: str(space.completeness) for space in found.collections["docs"].spaces} == shown
    assert f"shows <b>{NEW_TAG}</b>" in html
    assert re.search(r'id="current">0002<', html)


def test_a_report_on_an_empty_ledger_says_so(project: Project) -> None:
    project.documents(3)
    project.two_spaces()
    html = html_of(project.opened())
    assert "nothing has run here yet" in html
    assert "unknown until a first run has measured the model" in html


def test_what_users_wrote_is_escaped(moved: Project) -> None:
    with moved.connect() as conn:
        conn.execute(
            "update embedmig.embedding_migrations set error = %s, status = 'failed' where id = 1",
            ("<script>alert(1)</script>",),
        )
    html = html_of(moved.opened())
    assert "<script>" not in html
    assert "&lt;script&gt;alert(1)" in html


def test_every_metric_is_documented_and_every_sample_is_well_formed(moved: Project) -> None:
    text = exposition(commands.status(moved.opened()))
    names = set(re.findall(r"^(embedmig_\w+)(?:\{[^}]*\})? \S+$", text, re.MULTILINE))
    assert names <= set(HELP)
    documented = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
    assert all(f"`{name}`" in documented for name in HELP)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("width", [390, 1200])
def test_it_opens_in_a_browser_without_an_error(moved: Project, tmp_path: Path, width: int) -> None:
    file = tmp_path / "report.html"
    file.write_text(html_of(moved.opened()), encoding="utf-8")
    done = subprocess.run(
        [
            str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run",
            "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},900", "--enable-logging=stderr",
            "--v=0", "--dump-dom", file.as_uri(),
        ],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert f"shows <b>{NEW_TAG}</b>" in done.stdout
    assert "CONSOLE" not in done.stderr

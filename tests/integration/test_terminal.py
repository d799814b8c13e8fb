"""What commands print fits the width that it is printed at, and never loses what a row is called."""

from __future__ import annotations

import io
import os
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from rich.cells import cell_len
from rich.console import Console
from typer.testing import CliRunner

import embedmig
from embedmig import UsageError
from embedmig.cli import app
from embedmig.commands.fleet import FleetResult, TenantOutcome
from embedmig.formatting import short_tags
from embedmig.report.fleets import fleet_table
from embedmig.report.prometheus import exposition
from tests.conftest import SERVER, TEMPLATE
from tests.in_process import Fake
from tests.project import CONFIG, Project
from tests.waiting import wait_until

pytestmark = pytest.mark.one_server

COLLECTION = "customer_support_articles_translated"
MODEL = "fake/a-model-of-a-large-family-instruct-0.6b"
DIMENSIONS = (8, 16, 24)
TAGS = [f"{MODEL.replace('/', '-')}@2025-06-preview/dim-{n}/chunk-512/norm-l2" for n in DIMENSIONS]
SHORT = short_tags(TAGS)
WIDTHS = (60, 80, 200)
SPACE = """
from embedmig import Space, op

revision = "{0:04}"
down_revision = {1!r}
NEW = Space(collection="{2}", model="{3}", version="2025-06-preview", dimensions={4}, chunk={{"size": 512}})


def upgrade() -> None:
    op.create_space(NEW)
    op.backfill(NEW)
    op.gate(NEW, completeness=0.995)
    op.flip_alias("{2}", to=NEW)


def downgrade() -> None:
    op.flip_alias("{2}", to={5!r})
"""
LINES = {  # each command that prints a table or a page, and the versions that are rows of it
    "status": TAGS[:2], "sync": TAGS[:2], "audit": TAGS[:2], f"eval {COLLECTION}": TAGS[:2], f"search {COLLECTION} shock": [],
    f"compare {COLLECTION} 0001 0002": [], f"gate {COLLECTION}": [], "history": [], "heads": [], "current": [], "show 2": [],
    "plan": TAGS[2:], "upgrade --dry-run": TAGS[2:], "downgrade -1 --dry-run": [], "check": [], "throttle off": [],
    f"try {COLLECTION} --candidate wordllama/l2-supercat@0.4/64": [], "uninstall": [],
}  # fmt: skip


@dataclass
class Terminal:
    """Commands in this process, at a width."""

    project: Project

    def __call__(self, line: str, width: int | None) -> str:
        options = ["--config", str(self.project.folder / "embedmig.toml"), "--database", self.project.url, "--no-color"]
        columns = {"COLUMNS": None if width is None else str(width)}
        done = CliRunner().invoke(app, [*options, *line.split()], env=columns)
        assert done.exception is None or isinstance(done.exception, SystemExit | UsageError), done.output
        return done.output


@pytest.fixture(scope="module")
def terminal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    """A collection, a model and versions with long names: one retained, one live, one to come."""
    name = f"t_{uuid.uuid4().hex[:16]}"
    server = os.environ[SERVER]
    with psycopg.connect(server, autocommit=True) as conn:
        conn.execute(f"create database {name} template {TEMPLATE}")
        project = Project(tmp_path_factory.mktemp("terminal"), server.replace("/postgres?", f"/{name}?"))
        project.configure(CONFIG.replace("collections.docs", f"collections.{COLLECTION}"))
        project.documents(300)
        Fake().register()
        before: tuple[str | None, str | None] = (None, None)
        for number, (length, tag) in enumerate(zip(DIMENSIONS, TAGS, strict=True), 1):
            project.script(
                f"{number:04}_space.py", SPACE.format(number, before[0], COLLECTION, MODEL, length, before[1])
            )
            before = f"{number:04}", tag
        embedmig.upgrade(project.opened(), "0002")
        embedmig.make_golden(project.opened(), COLLECTION, 12)
        yield Terminal(project)
        conn.execute(f"drop database {name} with (force)")


@pytest.mark.parametrize("width", WIDTHS)
def test_a_fleet_fits_its_width_and_names_its_tenants(width: int) -> None:
    tenants = [
        TenantOutcome(
            f"customer_{number}_with_a_long_name", "up to date", current=["0002"], active={COLLECTION: TAGS[1]}
        )
        for number in range(3)
    ]
    for command in ("status", "upgrade"):
        console = Console(file=io.StringIO(), width=width)
        console.print(fleet_table(FleetResult(command, tenants[0].tenant, tenants, [], 1.0)))
        shown = console.file.getvalue()  # type: ignore[attr-defined]
        assert max(map(cell_len, shown.splitlines())) <= width
        assert all(one.tenant in shown for one in tenants)


@pytest.mark.parametrize("line", LINES)
def test_every_command_fits_its_width_and_names_its_rows(terminal: Terminal, line: str) -> None:
    for width in WIDTHS:
        shown = terminal(line, width)
        assert shown.strip()
        assert max(map(cell_len, shown.splitlines())) <= width, shown
        squeezed = "".join(shown.split())
        assert all(tag in squeezed or SHORT[tag] in squeezed for tag in LINES[line]), shown


def test_in_a_pipe_a_row_is_one_line_with_the_full_tag_however_long(terminal: Terminal) -> None:
    for line in ("status", "sync"):
        lines = [one for one in terminal(line, None).splitlines() if "  " in one]
        assert all(sum(tag in one for one in lines) == 1 for tag in TAGS[:2])


def test_a_short_name_is_taken_where_a_version_is_asked_for(terminal: Terminal) -> None:
    assert f'"version": "{TAGS[0]}"' in terminal(f"--json eval {COLLECTION} --version {SHORT[TAGS[0]]}", 80)


def test_status_fits_one_screen_during_a_run_and_its_figures_are_those_of_the_metrics(terminal: Terminal) -> None:
    project, go = terminal.project, threading.Event()
    fake = Fake().register()
    fake.options["script"] = [None, None, None, lambda _texts: go.wait(60) and None]
    run = threading.Thread(target=embedmig.upgrade, args=(project.opened(),))
    run.start()
    try:
        wait_until(lambda: (embedmig.status(project.opened()).running or {}).get("rows_per_second"), "a rate")
        found = embedmig.status(project.opened())
        shown, metrics = terminal("status", 80), exposition(found)
        print(shown)
    finally:
        go.set()
        run.join()
    running: dict[str, Any] = found.running or {}
    assert found.next == "embedmig status --watch"
    assert len(shown.splitlines()) <= 24, shown
    assert f"running     0003 upgrade by {running['by']}" in shown
    assert "  stage     2. backfill: " in shown
    assert f"{running['rows_done']} rows embedded" in shown
    assert f"{running['rows_left']} rows left" in shown
    assert shown.rstrip().endswith("next: embedmig status --watch")
    for gauge in ("rows", "rows_per_second", "rows_left", "eta_seconds"):
        assert f"embedmig_run_{gauge} " in metrics
    assert f"embedmig_run_rows {running['rows_done']}\n" in metrics

"""The report says what ``status`` says, escapes what users wrote, opens in a browser, and works on an empty ledger."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import embedmig
from embedmig import Reader
from embedmig.formatting import percent, size
from embedmig.report.page import page
from embedmig.report.prometheus import HELP, exposition
from tests.browser import AXE, CHROMIUM, Browser
from tests.project import NEW_TAG, OLD_TAG, Project

pytestmark = pytest.mark.with_ledger


def html_of(project: embedmig.Project, **options: bool) -> str:
    """The page as the command writes it."""
    return page(embedmig.gather_report(project, **options), now=datetime.now(UTC))


@pytest.fixture
def moved(project: Project) -> Project:
    """Two spaces, both applied."""
    project.two_spaces()
    project.prepared("report", lambda: (project.documents(20), embedmig.upgrade(project.opened())))
    return project


def test_the_figures_are_those_of_status(moved: Project) -> None:
    html = html_of(moved.opened())
    found = embedmig.status(moved.opened())
    shown = dict(re.findall(r'data-version="([^"]+)" data-completeness="([^"]+)"', html))
    assert {space.version: str(space.completeness) for space in found.collections["docs"].spaces} == shown
    assert f'data-figure="active">{NEW_TAG}</b>' in html
    assert re.search(r'id="current">0002<', html)


@pytest.fixture
def proved(moved: Project) -> Project:
    """The same, evaluated, and read in the shadow."""
    questions = [f"- {{query: '<b>wind {n}</b> & panel', relevant: [{n}], tags: ['a<i>b']}}" for n in range(12)]
    (moved.folder / "evals").mkdir()
    (moved.folder / "evals" / "docs.yaml").write_text("\n".join(questions))
    embedmig.evaluate(moved.opened(), "docs")
    with Reader(moved.url, "docs", shadow=OLD_TAG, rate=1.0) as reader:
        for number in range(5):
            reader.search(f"shock wave {number}")
    return moved


def test_the_worst_queries_and_what_shadow_reads_saw_are_shown_without_a_text(proved: Project) -> None:
    found = embedmig.gather_report(proved.opened()).evidence["docs"]
    html = html_of(proved.opened())
    assert [one.version for one in found.evaluations] == [OLD_TAG, NEW_TAG]
    for one in found.evaluations:
        scores = [item["ndcg@10"] for item in one.worst]
        assert scores == sorted(scores)
        assert 0 < len(one.worst) <= 10
        table = html.partition(f'data-worst="{one.version}"')[2].partition("</table>")[0]
        assert [int(n) for n in re.findall(r'data-label="query">(\d+)<', table)] == [i["number"] for i in one.worst]
    (pair,) = found.shadows
    assert (pair.active, pair.other, pair.samples, pair.errors) == (NEW_TAG, OLD_TAG, 5, 0)
    shown = html.partition(f'data-shadow="{OLD_TAG}"')[2].partition("</table>")[0]
    assert pair.overlap is not None
    figures = (f"overlap@10 <b>{pair.overlap:.3f}", *(f"{ms:.1f}" for ms in (*pair.other_ms, *pair.active_ms)))  # type: ignore[misc]
    assert all(figure in shown for figure in figures)
    assert "panel" not in html
    assert re.search(r'data-slices="docs">.*<td>a&lt;i&gt;b</td><td class="n">12</td>', html, re.DOTALL)
    assert "&lt;b&gt;wind " in html_of(proved.opened(), with_text=True)
    assert "data-answers" not in html_of(proved.opened(), with_text=True), "models are asked only where that was wanted"


def test_a_score_of_an_incomplete_corpus_is_marked_wherever_the_page_shows_it(proved: Project) -> None:
    with proved.connect() as conn:
        conn.execute(f"delete from embedmig.{proved.one('select max(table_name) from embedmig.spaces')} where id >= 12")
        conn.execute("delete from embedmig.evals")
    embedmig.evaluate(proved.opened(), "docs")
    partial = [
        one.version
        for one in embedmig.gather_report(proved.opened()).evidence["docs"].evaluations
        if one.completeness < 1
    ]
    assert len(partial) == 1
    html = html_of(proved.opened())
    assert (
        html.count("on only 60.0 %") == 4
    )  # at a glance, in the verdict on quality, with the space, and with the evaluation


def test_an_audit_is_shown_where_it_was_asked_for_and_else_how_to_ask(moved: Project) -> None:
    assert "embedmig report --audit" in html_of(moved.opened())
    assert re.search(r"nothing found in 2\s+spaces, 40 vectors", html_of(moved.opened(), audited=True))
    with moved.connect() as conn:
        conn.execute("alter table documents disable trigger all")
        conn.execute("insert into documents values (7000123, 'unseen', 'secret-text')")
    html = html_of(moved.opened(), audited=True)
    assert "1 eligible rows have no vector" in html
    assert "capture is disabled" in html
    assert "7000123" not in html
    assert "secret-text" not in html
    assert "7000123" in html_of(moved.opened(), audited=True, with_text=True)


def test_a_report_on_an_empty_ledger_says_so(project: Project) -> None:
    project.documents(3)
    project.two_spaces()
    html = html_of(project.opened())
    assert "nothing has run here yet" in html
    assert "nothing found in 0 spaces" in html_of(project.opened(), audited=True)
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
    text = exposition(embedmig.status(moved.opened()))
    names = set(re.findall(r"^(embedmig_\w+)(?:\{[^}]*\})? \S+$", text, re.MULTILINE))
    assert names <= set(HELP)
    documented = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
    assert all(f"`{name}`" in documented for name in HELP)


# --- as it is rendered -----------------------------------------------------------------------------------------

SPACES = """[...document.querySelectorAll("[data-version]")].map(space => Object.fromEntries(
    [...space.querySelectorAll("[data-figure]")].map(one => [one.dataset.figure, one.innerText])))"""
GATES = """[...document.querySelectorAll("[data-version]")].map(space =>
    [...space.querySelectorAll("[data-gate]")].map(row => [...row.cells].slice(0, 4).map(cell => cell.innerText)))"""
COLLECTION = """Object.fromEntries(["source_rows", "alias", "active"].map(name =>
    [name, document.querySelector(`[data-collection="docs"] [data-figure="${name}"]`).innerText]))"""
CUT_OFF = """[...document.querySelectorAll("body *")].filter(one => one.getBoundingClientRect().right > innerWidth + 1
    && !one.closest(".scroll")).map(one => one.outerHTML.slice(0, 80))"""
CHANGED = "document.querySelectorAll('[data-changed] td:first-child').length"
ANSWERED = "document.querySelectorAll('[data-answers] caption').length"
PAPER = "getComputedStyle(document.body).backgroundColor"
PAPERS = {"light": "rgb(255, 255, 255)", "dark": "rgb(22, 24, 27)"}
VIEWS = [(width, scheme) for width in (390, 1200) for scheme in PAPERS]


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    with Browser(tmp_path / "profile") as browser:
        yield browser


def test_on_a_phone_and_a_desk_light_and_dark_it_shows_without_a_fault_what_status_says(
    proved: Project, browser: Browser, tmp_path: Path
) -> None:
    file = tmp_path / "report.html"
    proved.run("report", "-o", str(file), "--audit", "--answers")
    status = proved.json("status")
    collection = status["collections"]["docs"]
    for width, scheme in VIEWS:
        browser.open(file, width, scheme)
        assert browser.faults() == []
        assert browser.value("document.querySelector('[data-decision]').dataset.decision") == "live"
        assert browser.value("document.querySelector('.sentence').getBoundingClientRect().bottom < 400")
        assert browser.value(PAPER) == PAPERS[scheme]
        assert browser.value(ANSWERED) == browser.value(CHANGED) > 0
        assert browser.value("innerWidth") == width
        assert browser.value("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        assert browser.value(CUT_OFF) == []
        assert browser.value("document.getElementById('current').innerText") == ", ".join(status["current"])
        assert browser.value("+document.getElementById('pending').innerText") == len(status["pending"])
        wanted = {"source_rows": f"{collection['source_rows']:,}", "alias": "docs_embeddings", "active": NEW_TAG}
        assert browser.value(COLLECTION) == wanted
        assert browser.value(SPACES) == [figures(space) for space in collection["spaces"]]
        assert browser.value(GATES) == [[gate(one) for one in space["gates"]] for space in collection["spaces"]]


def test_axe_finds_nothing_on_the_page(proved: Project, browser: Browser, tmp_path: Path) -> None:
    if not AXE.exists():
        pytest.skip("no axe-core: npm install --no-save axe-core")
    file = tmp_path / "report.html"
    embedmig.write_report(proved.opened(), file, audited=True, answered=True)
    for width, scheme in VIEWS:
        browser.open(file, width, scheme)
        assert browser.inaccessible() == []


def figures(space: dict[str, Any]) -> dict[str, str]:
    """A space of ``status --json`` as the page writes it."""
    plain = {name: str(space[name]) for name in ("version", "state", "dimensions", "index")}
    evals = {name: str(value) for name, value in space["evals"].items()}
    assert evals
    written = {
        "rows": f"{space['rows']:,}",
        "completeness": percent(space["completeness"]),
        "bytes": size(space["bytes"]),
    }
    return plain | written | evals


def gate(verdict: dict[str, Any]) -> list[str]:
    state = "open" if verdict["passed"] else "closed"
    return [verdict["name"], str(verdict["value"]), str(verdict["threshold"]), state]

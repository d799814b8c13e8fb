"""Commands that look: where things stand, what scripts say, what an upgrade would take."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from embedmig.cli.application import INSPECTING, Target, app, interruptible, settings
from embedmig.errors import EXIT_NO, UsageError


@app.command(rich_help_panel=INSPECTING)
def status(
    check: Annotated[bool, typer.Option("--check", help="Exit 3 if anything is pending or edited.")] = False,
    exact: Annotated[
        bool, typer.Option("--exact", help="Count every row, however many, and keep it for the next look.")
    ] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Draw it anew every few seconds, until Ctrl-C.")] = False,
    form: Annotated[
        str, typer.Option("--format", metavar="text|prometheus", help="For people, or for a collector.")
    ] = "text",
) -> None:
    """Where everything stands: revisions, aliases, spaces, gates. Read-only."""
    from embedmig import commands
    from embedmig.report.tables import status_table

    if watch:
        _watch()
        return
    found = commands.status(settings.project(), exact=exact)
    if form == "prometheus":
        from embedmig.report.prometheus import exposition

        print(exposition(found))
    elif form == "text":
        settings.show("status", found, lambda: status_table(found))
    else:
        raise UsageError(f"--format {form}: is not known", hint="text or prometheus; or embedmig --json status")
    if check and not found.settled:
        raise typer.Exit(EXIT_NO)


def _watch() -> None:
    """Reads anew as often as reading takes a tenth of the time, but not faster than every two seconds."""
    import time

    from rich.live import Live as Screen

    from embedmig import commands
    from embedmig.report.tables import status_table

    project = settings.project()
    with interruptible() as stop, Screen(console=settings.out, screen=sys.stdout.isatty()) as screen:
        while not stop.is_set():
            began = time.monotonic()
            screen.update(status_table(commands.status(project)), refresh=True)
            stop.wait(max(2.0, 10 * (time.monotonic() - began)))


@app.command(rich_help_panel=INSPECTING)
def report(
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write it.")] = Path("embedmig-report.html"),
    audit: Annotated[
        bool, typer.Option("--audit", help="Audit the store too: reads every vector, calls no model.")
    ] = False,
    with_text: Annotated[bool, typer.Option("--with-text", help="Show the texts of queries, and keys.")] = False,
) -> None:
    """One self-contained HTML page: what is live, what is running, how far it is, how good, what happened."""
    from embedmig import commands
    from embedmig.report.page import page

    found = commands.report(settings.project(), audited=audit, with_text=with_text)
    html = page(found, now=datetime.now(UTC))
    try:
        output.write_text(html, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{output} can't be written: {error.strerror}", hint="-o names another file") from error
    settings.show("report", {"path": str(output)}, lambda: str(output))


@app.command(rich_help_panel=INSPECTING)
def history() -> None:
    """Every revision, newest first."""
    from embedmig import commands
    from embedmig.report.tables import history_lines

    entries = commands.history(settings.project())
    settings.show("revisions", entries, lambda: history_lines(entries))


@app.command(rich_help_panel=INSPECTING)
def heads() -> None:
    """The revisions that nothing builds on."""
    from embedmig import commands
    from embedmig.report.tables import history_lines

    entries = commands.heads(settings.project())
    settings.show("revisions", entries, lambda: history_lines(entries))


@app.command(rich_help_panel=INSPECTING)
def current() -> None:
    """The applied heads."""
    from embedmig import commands

    applied = commands.current(settings.project())
    settings.show("current", applied, lambda: "\n".join(applied))


@app.command(rich_help_panel=INSPECTING)
def show(name: Annotated[str, typer.Argument(metavar="REV", help="head, 0002, 2, a unique prefix.")]) -> None:
    """One revision: its operations, checksum and attempts."""
    from embedmig import commands
    from embedmig.report.forecasts import shown_script

    shown = commands.show(settings.project(), name)
    settings.show("shown", shown, lambda: shown_script(shown))


@app.command(rich_help_panel=INSPECTING)
def check(
    offline: Annotated[bool, typer.Option("--offline", help="Look at files alone, not at the database.")] = False,
    form: Annotated[str, typer.Option("--format", help="text, json, github (annotations) or sarif.")] = "text",
) -> None:
    """For CI: careless scripts, edited ones, what is pending; docs/rules has a page a code. Exit 3 if anything is found."""
    from embedmig import commands
    from embedmig.report.findings import github_lines, sarif_document, text_lines

    if form not in ("text", "json", "github", "sarif"):
        raise UsageError(f"format {form!r} is not known", hint="text, json, github or sarif")
    project = settings.project()
    findings, folder = commands.check(project, offline=offline), project.config.path.parent
    if form == "github":
        print(github_lines(findings, folder), end="\n" if findings else "")
    elif form == "sarif":
        print(sarif_document(findings, folder))
    else:
        settings.json = settings.json or form == "json"
        settings.show("findings", findings, lambda: text_lines(findings))
    if findings:
        raise typer.Exit(EXIT_NO)


@app.command(rich_help_panel=INSPECTING)
def plan(
    target: Target = "head",
    probe: Annotated[
        bool,
        typer.Option("--probe", help="Embed some texts with the real model, to measure the time. An API bills it."),
    ] = False,
    probe_texts: Annotated[
        int | None, typer.Option("--probe-texts", metavar="N", min=1, help="How many; implies --probe.")
    ] = None,
) -> None:
    """What an upgrade would take, and which strategy fits. Changes nothing, and calls no model but with --probe."""
    from embedmig import commands
    from embedmig.report.forecasts import plan_page

    texts = probe_texts or (0 if probe else None)
    planned = commands.plan(settings.project(), target, probe_texts=texts)
    settings.show("plan", planned, lambda: plan_page(planned))

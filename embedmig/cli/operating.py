"""The panel Operating: commands that keep things running."""

from __future__ import annotations

import threading
from typing import Annotated

import typer

import embedmig
from embedmig.cli.application import OPERATING, app, in_one_line, interruptible, live, settings
from embedmig.cli.arguments import Collection, ExecutorName, MaxCost, OneCollection, VersionTag, Workers, executor_of
from embedmig.cli.completing import SHELLS, VARIABLE, versions
from embedmig.errors import EXIT_FAILED, EXIT_NO, UsageError

Why = Annotated[str, typer.Option("--reason", help="Shown by status.")]


@app.command(rich_help_panel=OPERATING)
def backfill(
    collection: Collection,
    version: VersionTag = None,
    workers: Workers = None,
    executor: ExecutorName = "processes",
    max_cost: MaxCost = None,
) -> None:
    """Help to fill a space, the newest or a version's: beside a running upgrade, or after one that did not wait."""
    from embedmig.formatting import plural

    with live() as shown, interruptible() as stop:
        tally = embedmig.backfill(
            settings.project(max_cost),
            collection,
            version,
            workers=workers,
            executor=executor_of(executor),
            report=shown,
            stop=stop,
        )
    settings.show("tally", tally, lambda: f"{plural(tally.rows, 'row')} embedded")


@app.command(rich_help_panel=OPERATING)
def sync(
    collection: OneCollection = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Keep syncing until stopped; several may run at once.")
    ] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="Recreate the triggers and compare every row, after a time without them.")
    ] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try again the rows that a model refused.")
    ] = False,
) -> None:
    """Apply waiting changes to every live space."""
    from embedmig.report.tables import synced_table

    with interruptible() as stop:
        if follow:
            _follow(collection, stop)
            return
        with live() as shown:
            found = embedmig.sync(
                settings.project(), collection, repair=repair, retry_failed=retry_failed, report=shown, stop=stop
            )
    settings.show("spaces", found, lambda: synced_table(found))
    for one in found:
        if one.hint:
            settings.err.print(f"{one.version or one.collection}: hint: {one.hint}", markup=False, highlight=False)
    if codes := {one.exit_code for one in found if one.error}:
        touched = not all(one.error for one in found)
        raise typer.Exit(EXIT_FAILED if len(codes) > 1 or (touched and codes != {EXIT_NO}) else codes.pop())


def _follow(collection: str | None, stop: threading.Event) -> None:
    """A status line when something was done, and every 30 seconds."""
    from embedmig.report.live import HealthLine

    health = HealthLine(settings.err)
    with live() as shown:
        embedmig.follow(settings.project(), collection, report=health, events=shown, stop=stop)
    settings.err.print("stopped; what was claimed is finished")


@app.command(rich_help_panel=OPERATING)
def pause(collection: OneCollection = None, reason: Why = "") -> None:
    """Pause running backfills and syncs, within a batch."""
    names = embedmig.pause(settings.project(), collection, reason)
    settings.show("paused", names, lambda: f"paused: {', '.join(names)}; embedmig resume continues")


@app.command(rich_help_panel=OPERATING)
def resume(collection: OneCollection = None) -> None:
    """Resume paused backfills and syncs."""
    names = embedmig.resume(settings.project(), collection)
    settings.show("resumed", names, lambda: f"resumed: {', '.join(names)}")


@app.command(rich_help_panel=OPERATING)
def throttle(
    speed: Annotated[str, typer.Argument(metavar="ROWS/S", help="Rows a second, such as 200; or off.")],
    collection: OneCollection = None,
    reason: Why = "",
) -> None:
    """Limit running backfills and syncs to a speed."""
    names = embedmig.throttle(settings.project(), _speed(speed), collection, reason)
    how = "no limit" if speed == "off" else f"limited to {_speed(speed):g} rows/s"
    settings.show("throttled", names, lambda: f"{', '.join(names)}: {how}")


def _speed(text: str) -> float | None:
    if text == "off":
        return None
    try:
        return float(text.removesuffix("rows/s").strip())
    except ValueError:
        raise UsageError(f"{text!r} is not a speed", hint="rows a second, such as 200; or off") from None


@app.command(rich_help_panel=OPERATING)
def alias(
    action: Annotated[str, typer.Argument(help="drop: before ALTER TABLE. rebuild: after it, or after an edit of the configuration.")],
    collection: Collection,
    old: Annotated[bool, typer.Option("--old", help="With drop: only the names that the alias had before.")] = False,
) -> None:  # fmt: skip
    """Drop the alias view for a schema change of the source, and rebuild it."""
    if action not in ("drop", "rebuild"):
        raise UsageError(f"alias {action}: is not an action", hint="drop or rebuild")
    if action == "rebuild":
        if old:
            raise UsageError("--old goes with alias drop", hint=f"embedmig alias drop {collection} --old")
        _rebuild(collection)
        return
    name = embedmig.alias_drop(settings.project(), collection, old=old)
    done = "is the alias' only name" if old else f"dropped; embedmig alias rebuild {collection} restores it"
    settings.show("alias", {"alias": name, "action": action}, lambda: f"{name} {done}")


def _rebuild(collection: str) -> None:
    """Says which differences between the configuration and what was live it carries out, and which it can't."""
    project = settings.project()
    found = embedmig.alias_differences(project, collection)
    name = embedmig.alias_rebuild(project, collection)
    for one in found:
        said = "carried out" if one.way == "alias rebuild" else f"not carried out: {one.command}"
        settings.err.print(f"{one.key}: {one.live} → {one.configured}: {said}")
        if one.key == "alias":
            settings.err.print(f"{one.live} stays as a second name until embedmig alias drop {collection} --old")
    settings.show("alias", {"alias": name, "action": "rebuild", "differences": found}, lambda: f"{name} rebuilt")


@app.command(rich_help_panel=OPERATING)
def retire(
    collection: Collection,
    version: Annotated[
        str, typer.Argument(metavar="TAG", help="The version whose vectors are dropped.", autocompletion=versions)
    ],
    after: Annotated[str, typer.Option(help="How long it must have been retained.")] = "21d",
    confirm: Annotated[str | None, typer.Option(metavar="TAG", help="Its full tag: this can't be taken back.")] = None,
    evals_stable: Annotated[
        int | None,
        typer.Option(metavar="N", help="The last N evaluations of the active version must be as good."),
    ] = None,
) -> None:
    """Drop the vectors of an old version, for good. Exit 3 while it is too early."""
    from embedmig.formatting import size

    asked = {"after": after, "confirm": confirm, "evals_stable": evals_stable}
    gone = embedmig.retire(settings.project(), collection, version, **asked)  # type: ignore[arg-type]  # as typer parsed them
    settings.show("retired", gone, lambda: f"{gone.version}: {size(gone.bytes)} freed in {gone.milliseconds:.0f} ms")


@app.command(rich_help_panel=OPERATING)
def release(
    collection: Collection,
    version: Annotated[
        str, typer.Argument(metavar="TAG", help="The adopted version to stop watching.", autocompletion=versions)
    ],
) -> None:
    """Stop watching an adopted version: its vectors stay, and their column may be dropped. Exit 3 while the alias shows it."""
    gone = embedmig.release(settings.project(), collection, version)
    columns = " and ".join(f"{gone.table}.{column}" for column in gone.columns)
    then = f"{columns} may be dropped" if columns else f"{gone.table} is left as it is"
    settings.show("released", gone, lambda: f"{gone.version} is released; {then}")


@app.command(rich_help_panel=OPERATING)
def uninstall(yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False) -> None:
    """Remove everything that embedmig made in the database, after a plan and a confirmation. Texts and adopted vectors stay."""
    import sys

    from embedmig.report.uninstalling import uninstall_page

    project = settings.project()
    planned = embedmig.uninstall(project)
    if planned.empty:
        settings.show("uninstall", planned, lambda: "there is nothing of embedmig's in the database")
        return
    if not yes:
        settings.err.print(uninstall_page(planned))
        if not sys.stdin.isatty():
            raise UsageError("uninstall was not confirmed; nothing was removed", hint="embedmig uninstall --yes")
        if not typer.confirm("Remove all of this?", err=True):
            raise UsageError("uninstall was not confirmed; nothing was removed")
    done = embedmig.uninstall(project, confirm=True)
    settings.show("uninstall", done, lambda: uninstall_page(done))


@app.command(rich_help_panel=OPERATING)
def cuts(collection: Collection) -> None:
    """Keep the thresholds that the configuration declares, carry them over to every live version, and list them."""
    from embedmig.report.evidence import cuts_table

    found = embedmig.cuts(settings.project(), collection)
    settings.show("cuts", found, lambda: cuts_table(found))
    if found.unknown:
        raise typer.Exit(EXIT_NO)


@app.command(rich_help_panel=OPERATING)
def server(action: Annotated[str, typer.Argument(help="url, start or stop.")] = "url") -> None:
    """The embedded PostgreSQL: print its URL for psql, start it, stop it."""
    project = settings.project()
    if action == "stop":
        stopped = embedmig.stop_server(project)
        settings.show("stopped", {"stopped": stopped}, lambda: "stopped" if stopped else "it wasn't running")
    elif action in ("url", "start"):
        url = embedmig.server_url(project)
        settings.show("url", {"url": url}, lambda: in_one_line(url))
    else:
        raise UsageError(f"server {action}: is not an action", hint="url, start or stop")


@app.command(rich_help_panel=OPERATING)
def completion(
    shell: Annotated[str, typer.Argument(help="bash, zsh, fish, powershell or pwsh.")],
) -> None:
    """Print what a shell needs to complete commands, options, collections, revisions and versions."""
    from typer.completion import get_completion_script  # type: ignore[attr-defined]  # of the module, as typer itself uses it

    if shell not in SHELLS:
        raise UsageError(f"{shell!r} is not a shell that can be completed for", hint=" or ".join(SHELLS))
    script = get_completion_script(prog_name="embedmig", complete_var=VARIABLE, shell=shell)
    settings.show("completion", {"shell": shell, "script": script}, lambda: script)


@app.command(rich_help_panel=OPERATING)
def schema() -> None:
    """Print the JSON Schema of embedmig.toml, for editors."""
    import json

    from embedmig.config.json_schema import json_schema

    found = json_schema()
    settings.show("json_schema", found, lambda: json.dumps(found, indent=2))

"""The terminal: options, exit codes, Ctrl-C. What a command does is in :mod:`embedmig.commands`.

Heavy modules are imported inside the commands: ``embedmig --help`` must be instant.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from embedmig import __version__
from embedmig.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_NO, EmbedmigError, UsageError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from embedmig.commands import Project, Ran
    from embedmig.report.live import Live

EXAMPLE = """
Makes a change of embedding model an ordinary database migration.

Example:

    embedmig revision -m "wordllama 256" --collection docs --model wordllama/l2-supercat --model-version 0.4 --dimensions 256

    embedmig upgrade head

    embedmig status

    embedmig downgrade -1

Exit codes: 0 done, 1 failed, 2 usage or configuration (nothing touched), 3 ran well and the answer is no, 4 another run holds the lock, 130 interrupted (run it again to go on).
"""

app = typer.Typer(
    name="embedmig",
    help=EXAMPLE,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
MIGRATING, INSPECTING, OPERATING = "Migrating", "Inspecting", "Operating"


@dataclass
class Settings:
    """The options that stand before the command."""

    config: Path | None = None
    database: str | None = None
    json: bool = False
    color: bool = True
    debug: bool = False

    @property
    def err(self) -> Console:
        """Where everything goes that is not data."""
        from rich.console import Console

        return Console(stderr=True, no_color=not self.color, highlight=False)

    @property
    def out(self) -> Console:
        """Where data goes. In a pipe a line is a line, however long."""
        from rich.console import Console

        width = None if sys.stdout.isatty() else 200
        return Console(no_color=not self.color, highlight=False, width=width)

    def project(self, max_cost: float | None = None) -> Project:
        """Reads the configuration."""
        from embedmig.commands import open_project

        return open_project(self.config, database=self.database, max_cost=max_cost)

    def show(self, name: str, data: Any, render: Callable[[], RenderableType]) -> None:
        """Prints a command's answer as JSON or for people."""
        if self.json:
            from embedmig.report.documents import document

            print(document(name, data))
        else:
            self.out.print(render(), soft_wrap=not sys.stdout.isatty())


settings = Settings()


def version_asked(value: bool) -> None:
    """``--version``."""
    if value:
        print(f"embedmig {__version__}")
        raise typer.Exit


@app.callback()
def options(
    config: Annotated[Path | None, typer.Option("--config", "-c", envvar="EMBEDMIG_CONFIG", help="The configuration file.  [./embedmig.toml]")] = None,
    database: Annotated[str | None, typer.Option(help="A URL, env:NAME or 'embedded'.  [env: EMBEDMIG_DATABASE]", show_default=False)] = None,
    json: Annotated[bool, typer.Option("--json", envvar="EMBEDMIG_JSON", help="One JSON document on stdout.")] = False,
    no_color: Annotated[bool, typer.Option("--no-color", envvar=["EMBEDMIG_NO_COLOR", "NO_COLOR"], help="No colours.")] = False,
    debug: Annotated[bool, typer.Option("--debug", envvar="EMBEDMIG_DEBUG", help="Show tracebacks.")] = False,
    _version: Annotated[bool, typer.Option("--version", callback=version_asked, is_eager=True, help="Print the version.")] = False,
) -> None:  # fmt: skip
    settings.config, settings.database, settings.json = config, database, json
    settings.color, settings.debug = not no_color, debug


# --- migrating ------------------------------------------------------------------------------------------------

Target = Annotated[str, typer.Argument(help="head, heads, +1, 0002, 2, a unique prefix, label@head.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print the plan with rows, tokens, cost and disk; change nothing.")
]
AsSql = Annotated[bool, typer.Option("--sql", help="Print the SQL of what is SQL; change nothing.")]


@app.command(rich_help_panel=MIGRATING)
def init(directory: Annotated[Path, typer.Argument(help="Where.")] = Path()) -> None:
    """Begin a project: embedmig.toml, migrations/ and a first revision."""
    from embedmig import commands

    paths = [str(path) for path in commands.init(directory)]
    settings.show("files", paths, lambda: "\n".join(paths))


@app.command(rich_help_panel=MIGRATING)
def revision(
    message: Annotated[str, typer.Option("--message", "-m", help="What the revision is for.")],
    collection: Annotated[str | None, typer.Option(help="Which collection.")] = None,
    model: Annotated[str | None, typer.Option(help="PROVIDER/MODEL, such as openai/text-embedding-3-small.")] = None,
    model_version: Annotated[str | None, typer.Option(help="The version that pins what the model's name stands for.")] = None,
    dimensions: Annotated[int | None, typer.Option(help="Length of the vectors.")] = None,
    normalize: Annotated[str | None, typer.Option(help="l2 or none.")] = None,
    metric: Annotated[str | None, typer.Option(help="cosine, l2 or ip.")] = None,
    storage: Annotated[str | None, typer.Option(help="vector or halfvec.")] = None,
    document_prefix: Annotated[str | None, typer.Option(help="Put before every document.")] = None,
    query_prefix: Annotated[str | None, typer.Option(help="Put before every query.")] = None,
    adopt: Annotated[str | None, typer.Option(metavar="TABLE.COLUMN", help="Adopt vectors that are there already.")] = None,
    autogenerate: Annotated[bool, typer.Option("--autogenerate", help="Take the model from \\[collections.NAME.embedding].")] = False,
    empty: Annotated[bool, typer.Option("--empty", help="A script without operations.")] = False,
    strategy: Annotated[str, typer.Option(help="all-at-once, parallel (no flip yet) or lazy (what is read first).")] = "all-at-once",
    head: Annotated[str, typer.Option(help="The revision to build on.")] = "head",
    branch_label: Annotated[str | None, typer.Option(help="A label for the branch that begins here.")] = None,
) -> None:  # fmt: skip
    """Write the next migration script, complete and ready to run."""
    from embedmig import commands

    given = {
        "model": model, "version": model_version, "dimensions": dimensions, "normalize": normalize, "metric": metric,
        "storage": storage, "document_prefix": document_prefix, "query_prefix": query_prefix,
    }  # fmt: skip
    fields = {name: value for name, value in given.items() if value is not None}
    wanted = commands.Wanted(message, collection, fields, adopt, autogenerate, empty, head, branch_label, strategy)  # type: ignore[arg-type]  # checked there
    path = commands.revision(settings.project(), wanted)
    settings.show("revision", {"path": str(path)}, lambda: str(path))


MaxCost = Annotated[float | None, typer.Option(min=0, metavar="USD", help="Stop before this run costs more.")]


@app.command(rich_help_panel=MIGRATING)
def upgrade(
    target: Target = "head",
    dry_run: DryRun = False,
    sql: AsSql = False,
    no_wait: Annotated[
        bool,
        typer.Option("--no-wait", help="Do what is quick, leave embedding to workers; exit 3 while rows are left."),
    ] = False,
    max_cost: MaxCost = None,
) -> None:
    """Apply revisions: make spaces, backfill, index, gate, flip."""
    _migrate("upgrade", target, dry_run, sql, max_cost, no_wait=no_wait)


@app.command(rich_help_panel=MIGRATING, context_settings={"ignore_unknown_options": True})
def downgrade(
    target: Annotated[str, typer.Argument(help="-1, 0001, base.")], dry_run: DryRun = False, sql: AsSql = False
) -> None:  # fmt: skip
    """Go back: gate on the old version, flip the alias to it. Nothing is embedded again."""
    _migrate("downgrade", target, dry_run, sql)


def _migrate(
    direction: Any, target: str, dry_run: bool, as_sql: bool, max_cost: float | None = None, **more: bool
) -> None:
    from embedmig import commands

    project = settings.project(max_cost)
    if dry_run or as_sql:
        from embedmig.report.tables import plan_tables

        planned = commands.dry_run(project, direction, target)
        settings.show("plan", planned, lambda: plan_tables(planned, as_sql=as_sql))
        return
    with _live() as live, _interruptible() as stop:
        ran: Ran = getattr(commands, direction)(project, target, report=live, stop=stop, **more)
    if settings.json:
        settings.show("ran", ran, lambda: "")
    elif not ran.revisions:
        settings.err.print(f"nothing to do: at {', '.join(ran.current) or 'base'}")


@app.command(rich_help_panel=MIGRATING)
def stamp(target: Annotated[str, typer.Argument(metavar="REV", help="A revision, head, heads or base.")]) -> None:
    """Record revisions as applied without running them."""
    from embedmig import commands

    ran = commands.stamp(settings.project(), target)
    settings.show("ran", ran, lambda: f"at {', '.join(ran.current) or 'base'}")


@app.command(rich_help_panel=MIGRATING)
def merge(
    revisions: Annotated[list[str] | None, typer.Argument(help="The heads to join; all of them if none are named.")] = None,
    message: Annotated[str, typer.Option("--message", "-m", help="What the revision is for.")] = "merge",
) -> None:  # fmt: skip
    """Write a script that joins several heads."""
    from embedmig import commands

    path = commands.merge(settings.project(), revisions or [], message)
    settings.show("revision", {"path": str(path)}, lambda: str(path))


@app.command(rich_help_panel=MIGRATING)
def rebase(
    name: Annotated[
        str, typer.Argument(metavar="REV", help="The revision, or its file's name where two have one number.")
    ],
) -> None:
    """Renumber a script that is not applied onto the one other head."""
    from embedmig import commands

    path = commands.rebase(settings.project(), name)
    settings.show("revision", {"path": str(path)}, lambda: str(path))


# --- inspecting -----------------------------------------------------------------------------------------------


@app.command(rich_help_panel=INSPECTING)
def status(
    check: Annotated[bool, typer.Option("--check", help="Exit 3 if anything is pending or edited.")] = False,
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
    found = commands.status(settings.project())
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
    with _interruptible() as stop, Screen(console=settings.out, screen=sys.stdout.isatty()) as screen:
        while not stop.is_set():
            began = time.monotonic()
            screen.update(status_table(commands.status(project)), refresh=True)
            stop.wait(max(2.0, 10 * (time.monotonic() - began)))


@app.command(rich_help_panel=INSPECTING)
def report(
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write it.")] = Path("embedmig-report.html"),
) -> None:
    """One self-contained HTML page: what is live, what is running, how far it is, what happened."""
    from embedmig import commands
    from embedmig.report.page import page

    html = page(commands.report(settings.project()), now=datetime.now(UTC))
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
    from embedmig.report.tables import shown_script

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
def plan(target: Target = "head") -> None:
    """What an upgrade would take, and which strategy fits. Calls no model, changes nothing."""
    from embedmig import commands
    from embedmig.report.tables import plan_page

    planned = commands.plan(settings.project(), target)
    settings.show("plan", planned, lambda: plan_page(planned))


Collection = Annotated[str, typer.Argument(metavar="COLLECTION", help="As in \\[collections.NAME].")]
OneCollection = Annotated[
    str | None, typer.Argument(metavar="[COLLECTION]", help="One collection; all of them if none is named.")
]
VersionTag = Annotated[str | None, typer.Option("--version", metavar="TAG", help="A version's tag.")]


@app.command(rich_help_panel=INSPECTING)
def gate(collection: Collection, version: VersionTag = None) -> None:
    """Evaluate the gate of the newest space, or of a version; change nothing. Exit 0 open, 3 closed."""
    from embedmig import commands
    from embedmig.report.tables import verdict_table

    verdicts = commands.gate(settings.project(), collection, version)
    settings.show("gates", verdicts, lambda: verdict_table(verdicts))
    if not all(verdict.passed for verdict in verdicts):
        raise typer.Exit(EXIT_NO)


@app.command(rich_help_panel=INSPECTING)
def audit(
    collection: OneCollection = None,
    sample: Annotated[int, typer.Option("--sample", metavar="N", help="Embed N texts of each space anew and compare; 0: none.")] = 0,
    seed: Annotated[int, typer.Option("--seed", help="Which ones: the same seed draws the same.")] = 0,
) -> None:  # fmt: skip
    """What is really in the store, spaces and your own tables. Read-only. Exit 3 if anything is found."""
    from embedmig import commands
    from embedmig.report.findings import audit_page

    found = commands.audit(settings.project(), collection, sample=sample, seed=seed)
    settings.show("audit", found, lambda: audit_page(found))
    if found.findings:
        raise typer.Exit(EXIT_NO)


@app.command(rich_help_panel=INSPECTING)
def drift(
    collection: Collection,
    model: Annotated[str, typer.Option(help="PROVIDER/MODEL that is to make the vectors from now on.")],
    model_version: Annotated[str, typer.Option(help="The version that pins what the model's name stands for.")],
    dimensions: Annotated[int | None, typer.Option(help="Length of its vectors; the active version's unless given.")] = None,
    sample: Annotated[int, typer.Option("--sample", metavar="N", help="How many texts both models embed.")] = 500,
    seed: Annotated[int, typer.Option("--seed", help="Which ones: the same seed draws the same.")] = 0,
) -> None:  # fmt: skip
    """Does a new version of a model need the vectors made anew? Exit 0: no. 3: yes, or can't tell."""
    from embedmig import commands
    from embedmig.report.findings import drift_page

    asked = {"model": model, "version": model_version, "dimensions": dimensions, "sample": sample, "seed": seed}
    found = commands.drift(settings.project(), collection, **asked)  # type: ignore[arg-type]  # as typer parsed them
    settings.show("drift", found, lambda: drift_page(found))
    if found.reindex != "no":
        raise typer.Exit(EXIT_NO)


@app.command(rich_help_panel=INSPECTING)
def search(
    collection: Collection,
    text: Annotated[str, typer.Argument(help="The query.")],
    k: Annotated[int, typer.Option("-k", help="How many rows.")] = 10,
    version: VersionTag = None,
) -> None:  # fmt: skip
    """Encode with the model that made the vectors, and read through the alias."""
    from embedmig import commands
    from embedmig.report.tables import hits_table

    found = commands.search(settings.project(), collection, text, k, version)
    settings.show("found", found, lambda: hits_table(found))


Golden = Annotated[Path | None, typer.Option("--golden", metavar="FILE", help="A golden set.  [evals/COLLECTION.yaml]")]


@app.command(name="eval", rich_help_panel=INSPECTING)
def evaluate(
    collection: Collection,
    version: VersionTag = None,
    golden: Golden = None,
    k: Annotated[int, typer.Option("-k", help="How many results count.")] = 10,
    make_golden: Annotated[int | None, typer.Option("--make-golden", metavar="N", help="Draw N known items from the corpus into the file, and measure nothing.")] = None,
    exact_only: Annotated[bool, typer.Option("--exact-only", help="Leave the index out: the model's own quality alone.")] = False,
) -> None:  # fmt: skip
    """Measure quality on a golden set, of every live version or of one, and keep the result."""
    from embedmig import commands
    from embedmig.report.evidence import evaluated_table, made_lines

    if make_golden is not None:
        made = commands.make_golden(settings.project(), collection, make_golden, golden)
        settings.show("made", made, lambda: made_lines(made))
        return
    found = commands.evaluate(settings.project(), collection, version, golden_set=golden, k=k, exact_only=exact_only)
    settings.show("evaluated", found, lambda: evaluated_table(found))


@app.command(rich_help_panel=INSPECTING)
def compare(
    collection: Collection,
    old: Annotated[str, typer.Argument(metavar="OLD", help="A version's tag.")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="The tag of the version to set beside it.")],
    golden: Golden = None,
    queries: Annotated[Path | None, typer.Option("--queries", metavar="FILE", help="Queries without judgements, one a line.")] = None,
    k: Annotated[int, typer.Option("-k", help="How many results count.")] = 10,
) -> None:  # fmt: skip
    """Two versions side by side: what they share, what changes most, which is better and how sure that is."""
    from embedmig import commands
    from embedmig.report.evidence import compared_page

    found = commands.compare(settings.project(), collection, old, new, golden_set=golden, queries=queries, k=k)
    settings.show("compared", found, lambda: compared_page(found))


# --- operating ------------------------------------------------------------------------------------------------


@app.command(rich_help_panel=OPERATING)
def backfill(collection: Collection, version: VersionTag = None, max_cost: MaxCost = None) -> None:
    """Fill a space that upgrade --no-wait left to a worker: the newest one, or a version's."""
    from embedmig import commands

    with _live() as live, _interruptible() as stop:
        tally = commands.backfill(settings.project(max_cost), collection, version, report=live, stop=stop)
    settings.show("tally", tally, lambda: f"{tally.rows:,} rows embedded")


Why = Annotated[str, typer.Option("--reason", help="Shown by status to whoever wonders.")]


@app.command(rich_help_panel=OPERATING)
def sync(
    collection: OneCollection = None,
    follow: Annotated[bool, typer.Option("--follow", help="Go on until stopped; several may run at once.")] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="Make the triggers anew and compare every row, after a time without them.")
    ] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try again the rows that a model refused.")
    ] = False,
) -> None:
    """Take the changes that wait into every live space."""
    from embedmig import commands
    from embedmig.report.tables import synced_table

    with _interruptible() as stop:
        if follow:
            _follow(collection, stop)
            return
        found = commands.sync(settings.project(), collection, repair=repair, retry_failed=retry_failed, stop=stop)
    settings.show("spaces", found, lambda: synced_table(found))
    if any(one.error for one in found):
        raise typer.Exit(EXIT_FAILED)


def _follow(collection: str | None, stop: threading.Event) -> None:
    """The daemon: a health line when something was done, and every 30 seconds."""
    from embedmig import commands
    from embedmig.report.live import HealthLine

    health = HealthLine(settings.err)
    commands.follow(settings.project(), collection, report=health, stop=stop)
    settings.err.print("stopped; what was claimed is settled")


@app.command(rich_help_panel=OPERATING)
def pause(collection: OneCollection = None, reason: Why = "") -> None:
    """Hold running backfills and syncs, within a batch."""
    from embedmig import commands

    names = commands.pause(settings.project(), collection, reason)
    settings.show("paused", names, lambda: f"paused: {', '.join(names)}; embedmig resume lets them go on")


@app.command(rich_help_panel=OPERATING)
def resume(collection: OneCollection = None) -> None:
    """Let paused backfills and syncs go on."""
    from embedmig import commands

    names = commands.resume(settings.project(), collection)
    settings.show("resumed", names, lambda: f"going on: {', '.join(names)}")


@app.command(rich_help_panel=OPERATING)
def throttle(
    speed: Annotated[str, typer.Argument(metavar="ROWS/S", help="Rows a second, such as 200; or off.")],
    collection: OneCollection = None,
    reason: Why = "",
) -> None:
    """Hold running backfills and syncs to a speed."""
    from embedmig import commands

    names = commands.throttle(settings.project(), _speed(speed), collection, reason)
    how = "as fast as it goes" if speed == "off" else f"held to {_speed(speed):g} rows/s"
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
    action: Annotated[str, typer.Argument(help="drop: make room for ALTER TABLE. rebuild: bring it back.")],
    collection: Collection,
) -> None:
    """Take the alias view away for a schema change of the source, and bring it back."""
    from embedmig import commands

    if action not in ("drop", "rebuild"):
        raise UsageError(f"alias {action}: is not an action", hint="drop or rebuild")
    name = getattr(commands, f"alias_{action}")(settings.project(), collection)
    done = {"drop": "dropped; embedmig alias rebuild brings it back", "rebuild": "is there"}[action]
    settings.show("alias", {"alias": name, "action": action}, lambda: f"{name} {done}")


@app.command(rich_help_panel=OPERATING)
def retire(
    collection: Collection,
    version: Annotated[str, typer.Argument(metavar="TAG", help="The version whose vectors are to go.")],
    after: Annotated[str, typer.Option(help="How long it must have been retained.")] = "21d",
    confirm: Annotated[
        str | None, typer.Option(metavar="TAG", help="The version again: this can't be taken back.")
    ] = None,
) -> None:
    """Drop the vectors of an old version, for good. Exit 3 while it is too early."""
    from embedmig import commands
    from embedmig.report.tables import size

    gone = commands.retire(settings.project(), collection, version, after=after, confirm=confirm)
    settings.show("retired", gone, lambda: f"{gone.version}: {size(gone.bytes)} freed in {gone.milliseconds:.0f} ms")


@app.command(rich_help_panel=OPERATING)
def server(action: Annotated[str, typer.Argument(help="url, start or stop.")] = "url") -> None:
    """The embedded PostgreSQL: print its URL for psql, start it, stop it."""
    from embedmig.db import open_database, stop_embedded

    config = settings.project().config
    if config.database != "embedded":
        raise UsageError("the database is not the embedded one", hint='database = "embedded" in embedmig.toml')
    if action == "stop":
        stopped = stop_embedded(config.data_dir / "postgres")
        settings.show("stopped", {"stopped": stopped}, lambda: "stopped" if stopped else "it wasn't running")
    elif action in ("url", "start"):
        url = open_database(config).url
        settings.show("url", {"url": url}, lambda: url)
    else:
        raise UsageError(f"server {action}: is not an action", hint="url, start or stop")


# --- around every command -------------------------------------------------------------------------------------


@contextmanager
def _live() -> Iterator[Live]:
    from embedmig.report.live import Live

    with Live(settings.err) as live:
        yield live


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """The first Ctrl-C, or a SIGTERM, ends the run after the batch in hand; the second Ctrl-C ends it at once."""
    stop = threading.Event()

    def asked(_number: int, _frame: object) -> None:
        if stop.is_set():
            # Nothing less ends a run whose model never answers: its thread can't be cancelled, and would be waited for.
            settings.err.show_cursor()
            settings.err.print("interrupted; run the same command again: it goes on where it stopped")
            os._exit(EXIT_INTERRUPTED)
        stop.set()
        settings.err.print("\nstopping after the batch in hand; once more to stop at once", style="yellow")

    before = {number: signal.signal(number, asked) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def main() -> None:
    """The console script: every error is shown here, once, and becomes the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal that can't print a sign is no reason to fail
    try:
        app()
    except EmbedmigError as error:
        sys.exit(_explain(error))
    except KeyboardInterrupt:
        settings.err.print("interrupted; run the same command again: it goes on where it stopped")
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_FAILED)
    except Exception as error:  # noqa: BLE001  the last line of defence; the traceback is kept
        sys.exit(_unexpected(error))


def _explain(error: EmbedmigError) -> int:
    from rich.text import Text

    if settings.debug:
        traceback.print_exception(error)
    if settings.json:
        from embedmig.report.documents import error_document

        print(error_document(error))
    label = (
        "interrupted" if error.exit_code == EXIT_INTERRUPTED else "closed" if error.exit_code == EXIT_NO else "error"
    )
    settings.err.print(Text.assemble((f"{label}: ", "bold red"), error.message), soft_wrap=True)
    if error.hint:
        settings.err.print(Text.assemble(("hint: ", "bold"), error.hint), soft_wrap=True)
    return error.exit_code


def _unexpected(error: Exception) -> int:
    from rich.text import Text

    if settings.debug:
        traceback.print_exception(error)
        return EXIT_FAILED
    with tempfile.NamedTemporaryFile("w", prefix="embedmig-", suffix=".log", delete=False) as file:
        traceback.print_exception(error, file=file)
    settings.err.print(Text(f"error: unexpected {type(error).__name__}: {error}"), soft_wrap=True)
    settings.err.print(
        Text(f"hint: the traceback is in {file.name}; please report it, or see it with --debug"), soft_wrap=True
    )
    return EXIT_FAILED

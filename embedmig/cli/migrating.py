"""The panel Migrating: commands that write scripts and carry them out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

import embedmig
from embedmig.cli.application import MIGRATING, app, from_here, interruptible, live, settings
from embedmig.cli.arguments import AsSql, DryRun, Each, ExecutorName, MaxCost, Parallel, Target, Workers, executor_of
from embedmig.cli.completing import revisions
from embedmig.errors import EXIT_NO, UsageError


@app.command(rich_help_panel=MIGRATING)
def init(
    directory: Annotated[Path, typer.Argument(help="Where.")] = Path(),
    model: Annotated[str | None, typer.Option(metavar="PROVIDER/MODEL@VERSION", help="What made the vectors that are there.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
    make_golden: Annotated[int | None, typer.Option("--make-golden", metavar="N", min=1, help="Draw a first golden set of N known items for each collection.")] = None,
) -> None:  # fmt: skip
    """Begin a project. With --database: look for vectors, propose collections, and write revisions that adopt them."""
    from embedmig.cli.beginning import choose, explain
    from embedmig.report.evidence import made_lines

    database = settings.database or os.environ.get("EMBEDMIG_DATABASE")
    found = embedmig.find_vectors(database) if database and database != "embedded" else []
    models = choose(found, model, yes=yes) if found else {}
    files = embedmig.init(directory, database=database, found=found, models=models)
    project = embedmig.open_project(directory / "embedmig.toml", database=database) if make_golden else None
    for one in (one for one in found if not one.problem and make_golden):
        made = embedmig.make_golden(project, one.collection, make_golden or 0)
        settings.err.print(made_lines(made), soft_wrap=True)
        files.append(made.path)
    paths = [str(path) for path in files]
    settings.show("files", paths, lambda: "\n".join(paths))
    if database and not settings.json:
        explain(directory, database, found, models)


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
    store: Annotated[str | None, typer.Option(help="pgvector, or the NAME of a \\[stores.NAME] of the configuration.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, float16 or bfloat16: what a local model computes in.")] = None,
    document_prefix: Annotated[str | None, typer.Option(help="Put before every document.")] = None,
    query_prefix: Annotated[str | None, typer.Option(help="Put before every query.")] = None,
    cut: Annotated[bool, typer.Option("--cut", help="The model gives more numbers: cut to --dimensions and normalize here.")] = False,
    query_model: Annotated[str | None, typer.Option(help="PROVIDER/MODEL of the same vector space that encodes queries.")] = None,
    adopt: Annotated[str | None, typer.Option(metavar="TABLE.COLUMN", help="Adopt vectors that are there already; with --store, the points of this collection.")] = None,
    key: Annotated[str, typer.Option(metavar="FIELD", help="Where adopted points say their row's key: id, or payload.FIELD.")] = "id",
    derive: Annotated[str | None, typer.Option(metavar="VERSION", help="Compute the vectors from those of this version: no text is embedded.")] = None,
    assume_current: Annotated[bool, typer.Option("--assume-current", help="With --derive from adopted vectors: they are of the texts as they are.")] = False,
    autogenerate: Annotated[bool, typer.Option("--autogenerate", help="Take the model from \\[collections.NAME.embedding].")] = False,
    empty: Annotated[bool, typer.Option("--empty", help="A script without operations.")] = False,
    strategy: Annotated[str, typer.Option(help="all-at-once, parallel (no flip yet) or lazy (what is read first).")] = "all-at-once",
    head: Annotated[str, typer.Option(help="The revision to build on.")] = "head",
    branch_label: Annotated[str | None, typer.Option(help="A label for the branch that begins here.")] = None,
) -> None:  # fmt: skip
    """Write the next migration script, complete and ready to run."""
    given = {
        "model": model, "version": model_version, "dimensions": dimensions, "normalize": normalize, "metric": metric,
        "storage": storage, "store": store, "dtype": dtype, "document_prefix": document_prefix, "query_prefix": query_prefix,
        "cut": cut or None, "query_model": query_model,
    }  # fmt: skip
    fields = {name: value for name, value in given.items() if value is not None}
    made = embedmig.revision(
        settings.project(), message, collection=collection, fields=fields, adopt=adopt, autogenerate=autogenerate, empty=empty,
        strategy=strategy, head=head, label=branch_label, derive=derive, assume_current=assume_current, key=key,  # type: ignore[arg-type]  # checked there
    )  # fmt: skip
    path = from_here(made)
    settings.show("revision", {"path": path}, lambda: path)


@app.command("import", rich_help_panel=MIGRATING)
def import_collection(
    name: Annotated[str, typer.Argument(metavar="COLLECTION", help="What the collection is to be called here.")],
    store: Annotated[str, typer.Option(help="The NAME of a \\[stores.NAME] of the configuration.")],
    collection: Annotated[str, typer.Option(help="The collection in the store, or an alias that shows it.")],
    text: Annotated[list[str], typer.Option(metavar="FIELD", help="payload.FIELD that holds a text; may be given again.")],
    key: Annotated[str, typer.Option(metavar="FIELD", help="Where points say their key: id, or payload.FIELD.")] = "id",
    column: Annotated[list[str] | None, typer.Option(metavar="FIELD", help="payload.FIELD or payload.FIELD:TYPE to be copied too.")] = None,
    table: Annotated[str | None, typer.Option(help="The table in PostgreSQL; the collection's name unless given.")] = None,
    model: Annotated[str | None, typer.Option(help="PROVIDER/MODEL that made the vectors.")] = None,
    model_version: Annotated[str | None, typer.Option(help="The version that pins what the model's name stands for.")] = None,
) -> None:  # fmt: skip
    """Copy texts that live in a store's payload alone into PostgreSQL, and write the adoption of its vectors."""
    from embedmig.report.importing import imported_page

    fields = {field: value for field, value in (("model", model), ("version", model_version)) if value is not None}
    with live() as shown, interruptible() as stop:
        found = embedmig.import_collection(
            settings.project(), name, store=store, collection=collection, text=text, key=key, columns=column or [], table=table,
            fields=fields, report=shown, stop=stop,
        )  # fmt: skip
    settings.show("imported", found, lambda: imported_page(found, from_here))
    if found.problem:
        raise typer.Exit(EXIT_NO)


@app.command(rich_help_panel=MIGRATING)
def upgrade(
    target: Target = "head",
    dry_run: DryRun = False,
    sql: AsSql = False,
    no_wait: Annotated[
        bool,
        typer.Option("--no-wait", help="Do what is quick and leave embedding to workers; exit 3 while rows are left."),
    ] = False,
    workers: Workers = None,
    executor: ExecutorName = "processes",
    max_cost: MaxCost = None,
    each: Each = None,
    parallel: Parallel = None,
) -> None:
    """Apply revisions: create spaces, backfill, index, gate, flip."""
    if each:
        _refuse_with_each({"--dry-run": dry_run, "--sql": sql, "--no-wait": no_wait})
        from embedmig.cli.fleets import upgrade_each

        given = {"--workers": workers, "--executor": executor_of(executor), "--max-cost": max_cost}
        options = [part for name, value in given.items() if value is not None for part in (name, str(value))]
        upgrade_each(each, target, parallel, options)
        return
    shared = {"workers": workers, "executor": executor_of(executor)}
    _migrate("upgrade", target, dry_run, sql, max_cost, no_wait=no_wait, **shared)


def _refuse_with_each(given: dict[str, bool]) -> None:
    if wrong := [name for name, value in given.items() if value]:
        raise UsageError(
            f"{wrong[0]} is not for --each", hint="embedmig status --each FILE   shows what each tenant has left to do"
        )


@app.command(rich_help_panel=MIGRATING, context_settings={"ignore_unknown_options": True})
def downgrade(
    target: Annotated[str, typer.Argument(help="-1, 0001, base.", autocompletion=revisions)], dry_run: DryRun = False, sql: AsSql = False
) -> None:  # fmt: skip
    """Go back: gate on the old version, flip the alias to it. Nothing is embedded again."""
    _migrate("downgrade", target, dry_run, sql)


def _migrate(
    direction: Any, target: str, dry_run: bool, as_sql: bool, max_cost: float | None = None, **more: Any
) -> None:
    project = settings.project(max_cost)
    if dry_run or as_sql:
        from embedmig.report.tables import plan_tables

        planned = embedmig.dry_run(project, direction, target)
        settings.show("plan", planned, lambda: plan_tables(planned, as_sql=as_sql))
        return
    with live() as shown, interruptible() as stop:
        ran: embedmig.RunResult = getattr(embedmig, direction)(project, target, report=shown, stop=stop, **more)
    if settings.json:
        settings.show("ran", ran, lambda: "")
        return
    if not ran.revisions:
        settings.err.print(f"nothing to do: at {', '.join(ran.current) or 'base'}")
    if ran.quality:
        from embedmig.report.tables import quality_line

        for name, found in ran.quality.items():
            settings.err.print(quality_line(found, f"{name}: quality"))


@app.command(rich_help_panel=MIGRATING)
def stamp(
    target: Annotated[str, typer.Argument(metavar="REV", help="A revision, head, heads or base.")],
    purge: Annotated[bool, typer.Option("--purge", help="Record all others as not applied, even those whose scripts are lost.")] = False,
) -> None:  # fmt: skip
    """Record revisions as applied without running them."""
    ran = embedmig.stamp(settings.project(), target, purge=purge)
    settings.show("ran", ran, lambda: f"at {', '.join(ran.current) or 'base'}")


@app.command(rich_help_panel=MIGRATING)
def merge(
    revisions: Annotated[list[str] | None, typer.Argument(help="The heads to join; all of them if none are named.")] = None,
    message: Annotated[str, typer.Option("--message", "-m", help="What the revision is for.")] = "merge",
) -> None:  # fmt: skip
    """Write a script that joins several heads."""
    path = from_here(embedmig.merge(settings.project(), revisions or [], message))
    settings.show("revision", {"path": path}, lambda: path)


@app.command(rich_help_panel=MIGRATING)
def squash(
    target: Annotated[str, typer.Argument(metavar="REV", help="The last of the revisions that become one.", autocompletion=revisions)],
) -> None:  # fmt: skip
    """Write one script for fresh databases in the place of all applied revisions up to REV."""
    found = embedmig.squash(settings.project(), target)
    settings.show("squashed", found, lambda: from_here(found.path))
    if settings.json:
        return
    say = settings.err
    say.print(
        f"stands for {', '.join(found.replaces)}; their scripts are in {from_here(found.moved[0].parent)}/",
        soft_wrap=True,
    )
    if found.left_out:
        say.print(f"left out, because they are gone by then: {', '.join(found.left_out)}", soft_wrap=True)
    if found.statements:
        say.print(f"read the {found.statements} op.execute in it: your own SQL was kept as it is", style="yellow")


@app.command(rich_help_panel=MIGRATING)
def rebase(
    name: Annotated[
        str, typer.Argument(metavar="REV", help="The revision, or its file's name where two have one number.")
    ],
) -> None:
    """Renumber a script that is not applied onto the one other head."""
    path = from_here(embedmig.rebase(settings.project(), name))
    settings.show("revision", {"path": path}, lambda: path)

"""The panel Inspecting: commands that look, and measure."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

import embedmig
from embedmig.cli.application import INSPECTING, app, interruptible, settings
from embedmig.cli.arguments import Collection, Each, OneCollection, Parallel, Target, VersionTag, whole_numbers
from embedmig.cli.completing import revisions
from embedmig.errors import EXIT_NO, UsageError

Golden = Annotated[Path | None, typer.Option("--golden", metavar="FILE", help="A golden set.  [evals/COLLECTION.yaml]")]


@app.command(rich_help_panel=INSPECTING)
def status(
    check: Annotated[bool, typer.Option("--check", help="Exit 3 if anything is pending or edited.")] = False,
    exact: Annotated[
        bool, typer.Option("--exact", help="Count every row, however many, and keep the count for the next status.")
    ] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Redraw every few seconds, until Ctrl-C.")] = False,
    form: Annotated[
        str, typer.Option("--format", metavar="text|prometheus", help="For people, or for a collector.")
    ] = "text",
    each: Each = None,
    parallel: Parallel = None,
) -> None:
    """Where everything stands: revisions, aliases, spaces, gates. Read-only."""
    if each:
        from embedmig.cli.fleets import status_each

        if watch or exact or form != "text":
            raise UsageError("--each goes with --check, --parallel and --json alone")
        status_each(each, parallel, check=check)
        return
    from embedmig.report.tables import status_table

    if watch:
        _watch()
        return
    found = embedmig.status(settings.project(), exact=exact)
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
    """Reads again so often that reading takes a tenth of the time, at most every two seconds."""
    import time

    from rich.live import Live as Screen

    from embedmig.report.tables import status_table

    project = settings.project()
    with interruptible() as stop, Screen(console=settings.out, screen=sys.stdout.isatty()) as screen:
        while not stop.is_set():
            began = time.monotonic()
            screen.update(status_table(embedmig.status(project)), refresh=True)
            stop.wait(max(2.0, 10 * (time.monotonic() - began)))


@app.command(rich_help_panel=INSPECTING)
def report(
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write it.")] = Path("embedmig-report.html"),
    audit: Annotated[
        bool, typer.Option("--audit", help="Audit the store too: reads every vector, calls no model.")
    ] = False,
    with_text: Annotated[bool, typer.Option("--with-text", help="Show the texts of queries, and keys.")] = False,
    answers: Annotated[
        bool,
        typer.Option(
            "--answers", help="Ask both models for the queries that changed most, and show both answers, with texts."
        ),
    ] = False,
) -> None:
    """One self-contained HTML page: what is live, what is running, how far it is, how good, what happened."""
    path = embedmig.write_report(settings.project(), output, audited=audit, with_text=with_text, answered=answers)
    settings.show("report", {"path": path}, lambda: str(path))


@app.command(rich_help_panel=INSPECTING)
def history() -> None:
    """Every revision, newest first."""
    from embedmig.report.tables import history_lines

    entries = embedmig.history(settings.project())
    settings.show("revisions", entries, lambda: history_lines(entries))


@app.command(rich_help_panel=INSPECTING)
def heads() -> None:
    """The revisions that nothing builds on."""
    from embedmig.report.tables import history_lines

    entries = embedmig.heads(settings.project())
    settings.show("revisions", entries, lambda: history_lines(entries))


@app.command(rich_help_panel=INSPECTING)
def current() -> None:
    """The applied heads, and what is applied in part."""
    from embedmig.commands.current import position

    found = position(settings.project())
    settings.show("current", found, lambda: "\n".join([*found.current, *(one.in_words for one in found.partly)]))


@app.command(rich_help_panel=INSPECTING)
def show(
    name: Annotated[
        str, typer.Argument(metavar="REV", help="head, 0002, 2, a unique prefix.", autocompletion=revisions)
    ],
) -> None:
    """One revision: its operations, checksum and attempts."""
    from embedmig.report.forecasts import shown_script

    shown = embedmig.show(settings.project(), name)
    settings.show("shown", shown, lambda: shown_script(shown))


@app.command(rich_help_panel=INSPECTING)
def check(
    offline: Annotated[bool, typer.Option("--offline", help="Check files only, without the database.")] = False,
    form: Annotated[str, typer.Option("--format", help="text, json, github (annotations) or sarif.")] = "text",
) -> None:
    """For CI: unsafe scripts, edited ones, what is pending; docs/rules has a page a code. Exit 3 if anything is found."""
    from embedmig.report.findings import github_lines, sarif_document, text_lines

    if form not in ("text", "json", "github", "sarif"):
        raise UsageError(f"format {form!r} is not known", hint="text, json, github or sarif")
    project = settings.project()
    findings, folder = embedmig.check(project, offline=offline), project.config.path.parent
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
    from embedmig.report.forecasts import plan_page

    texts = probe_texts or (0 if probe else None)
    planned = embedmig.plan(settings.project(), target, probe_texts=texts)
    settings.show("plan", planned, lambda: plan_page(planned))


@app.command(rich_help_panel=INSPECTING)
def gate(collection: Collection, version: VersionTag = None) -> None:
    """Evaluate the gate of the newest space, or of a version; change nothing. Exit 0 open, 3 closed."""
    from embedmig.report.tables import verdict_table

    verdicts = embedmig.gate(settings.project(), collection, version)
    settings.show("gates", verdicts, lambda: verdict_table(verdicts))
    if not all(verdict.passed for verdict in verdicts):
        raise typer.Exit(EXIT_NO)


@app.command(rich_help_panel=INSPECTING)
def audit(
    collection: OneCollection = None,
    sample: Annotated[int, typer.Option("--sample", metavar="N", help="Embed N texts of each space again and compare; 0: none.")] = 0,
    seed: Annotated[int, typer.Option("--seed", help="Which ones: the same seed draws the same.")] = 0,
) -> None:  # fmt: skip
    """What is really in the store, spaces and your own tables. Read-only. Exit 3 if anything is found."""
    from embedmig.report.findings import audit_page

    found = embedmig.audit(settings.project(), collection, sample=sample, seed=seed)
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
    """Does a new version of a model need a re-index? Exit 0: no. 3: yes, or can't tell."""
    from embedmig.report.findings import drift_page

    asked = {"model": model, "version": model_version, "dimensions": dimensions, "sample": sample, "seed": seed}
    found = embedmig.drift(settings.project(), collection, **asked)  # type: ignore[arg-type]  # as typer parsed them
    settings.show("drift", found, lambda: drift_page(found))
    if found.reindex != "no":
        raise typer.Exit(EXIT_NO)


@app.command(rich_help_panel=INSPECTING)
def search(
    collection: Collection,
    text: Annotated[str, typer.Argument(help="The query.")],
    k: Annotated[int, typer.Option("-k", help="How many rows.")] = 10,
    version: VersionTag = None,
    rerank: Annotated[str | None, typer.Option("--rerank", metavar="TAG", help="The version that ranks what the alias' version finds.")] = None,
    depth: Annotated[int, typer.Option(help="Of --rerank: how many rows it ranks.")] = 50,
) -> None:  # fmt: skip
    """Encode with the model that made the vectors, and read through the alias."""
    from embedmig.report.tables import hits_table

    found = embedmig.search(settings.project(), collection, text, k, version, rerank=rerank, depth=depth)
    settings.show("found", found, lambda: hits_table(found))


@app.command(rich_help_panel=INSPECTING)
def bridge(
    collection: Collection,
    source: Annotated[str, typer.Option("--from", metavar="TAG", help="The version whose queries are mapped.")],
    target: Annotated[str, typer.Option("--to", metavar="TAG", help="The version whose vectors they are compared with.")],
    golden: Golden = None,
    k: Annotated[int, typer.Option("-k", help="How many results count.")] = 10,
    sample: Annotated[int, typer.Option(help="How many rows that both hold it is fitted on, at most.")] = 20_000,
    seed: Annotated[int, typer.Option(help="Which rows are drawn, and which held out.")] = 0,
) -> None:  # fmt: skip
    """Fit a map from one version's queries to another's vectors, measure whether it pays, and keep it."""
    from embedmig.report.evidence import bridge_page

    found = embedmig.bridge(
        settings.project(), collection, source, target, golden_set=golden, k=k, sample=sample, seed=seed
    )
    settings.show("bridged", found, lambda: bridge_page(found))


@app.command(name="eval", rich_help_panel=INSPECTING)
def evaluate(
    collection: Collection,
    version: VersionTag = None,
    golden: Golden = None,
    k: Annotated[int, typer.Option("-k", help="How many results count.")] = 10,
    make_golden: Annotated[int | None, typer.Option("--make-golden", metavar="N", help="Draw N known items from the corpus into the file, and measure nothing.")] = None,
    exact_only: Annotated[bool, typer.Option("--exact-only", help="Exact search only, without the index: the model's own quality.")] = False,
    rerank: Annotated[str | None, typer.Option("--rerank", metavar="TAG", help="Measure this version ranking what --version, or the active one, finds; what it lacks is embedded and kept.")] = None,
    depth: Annotated[str, typer.Option("--depth", metavar="N,N", help="Of --rerank: how many rows are ranked.")] = "20,50,100",
) -> None:  # fmt: skip
    """Measure quality on a golden set, of every live version or of one, and keep the result."""
    from embedmig.report.evidence import evaluated_table, made_lines

    if make_golden is not None:
        made = embedmig.make_golden(settings.project(), collection, make_golden, golden)
        settings.show("made", made, lambda: made_lines(made))
        return
    found = embedmig.evaluate(
        settings.project(),
        collection,
        version,
        golden_set=golden,
        k=k,
        exact_only=exact_only,
        rerank=rerank,
        depths=whole_numbers("--depth", depth),
    )
    settings.show("evaluated", found, lambda: evaluated_table(found))


@app.command(name="try", rich_help_panel=INSPECTING)
def try_models(
    collection: Collection,
    candidate: Annotated[list[str] | None, typer.Option("--candidate", metavar="MODEL", help="PROVIDER/MODEL@VERSION\\[/DIMENSIONS]; may be repeated.")] = None,
    candidates: Annotated[Path | None, typer.Option("--candidates", metavar="FILE", help="A YAML list of candidates, or of fields of Space.")] = None,
    sample: Annotated[int, typer.Option("--sample", metavar="N", help="How many rows; judged ones always.")] = 2000,
    golden: Golden = None,
    queries: Annotated[Path | None, typer.Option("--queries", metavar="FILE", help="Queries without judgements, one a line.")] = None,
    k: Annotated[int, typer.Option("-k", help="How many results count.")] = 10,
    seed: Annotated[int, typer.Option("--seed", help="Which rows: the same seed draws the same.")] = 0,
    make_golden: Annotated[int | None, typer.Option("--make-golden", metavar="N", help="Draw N known items into the golden set first.")] = None,
    judge: Annotated[str | None, typer.Option("--judge", metavar="MODEL", help="A language model that grades what is found: PROVIDER/MODEL.")] = None,
    max_cost: Annotated[float | None, typer.Option("--max-cost", metavar="USD", help="The most for any one model, the judge included.")] = None,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write it as a page too: quality against price and size as a picture.")] = None,
) -> None:  # fmt: skip
    """Models, cuts and storage types beside each other on a sample: quality, cost, time, disk. Writes nothing to the database."""
    from embedmig.commands.try_models import read_candidates
    from embedmig.report.trials import trial_page
    from embedmig.report.trials_picture import write_trials

    wanted = [*(candidate or []), *(read_candidates(candidates) if candidates else [])]
    found = embedmig.try_models(
        settings.project(), collection, wanted, sample=sample, golden_set=golden, queries=queries, k=k, seed=seed,
        make_golden=make_golden, judge=judge, max_cost=max_cost,
    )  # fmt: skip
    if html:
        write_trials(found, html)
    settings.show("tried", found, lambda: trial_page(found))


@app.command(rich_help_panel=INSPECTING)
def compare(
    collection: Collection,
    old: Annotated[str, typer.Argument(metavar="OLD", help="A version's tag.")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="The tag of the version to set beside it.")],
    golden: Golden = None,
    queries: Annotated[Path | None, typer.Option("--queries", metavar="FILE", help="Queries without judgements, one a line.")] = None,
    k: Annotated[int, typer.Option("-k", help="How many results count.")] = 10,
    depth: Annotated[int | None, typer.Option("--depth", help="NEW ranks what OLD finds, so many rows: re-ranking reads beside OLD alone.")] = None,
) -> None:  # fmt: skip
    """Two versions side by side: overlap, what changes most, which is better and with what certainty."""
    from embedmig.report.evidence import compared_page

    found = embedmig.compare(
        settings.project(), collection, old, new, golden_set=golden, queries=queries, k=k, depth=depth
    )
    settings.show("compared", found, lambda: compared_page(found))

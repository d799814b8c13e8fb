"""Commands that gather evidence: gate, audit, drift, search, eval, compare."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from embedmig.cli.application import INSPECTING, Collection, OneCollection, VersionTag, app, settings
from embedmig.errors import EXIT_NO


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

"""The output of ``eval`` and ``compare``. A score of an incomplete corpus is marked."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from embedmig.commands.bridge import BridgeResult
from embedmig.commands.compare import ComparisonResult
from embedmig.commands.cuts import CutsResult
from embedmig.commands.evaluate import DrawnGoldenSet, EvaluationResult
from embedmig.formatting import percent, plural
from embedmig.gates.evidence import Evaluation
from embedmig.quality.compare import ChangedQuery
from embedmig.report.layout import Rows
from embedmig.types import Hit


def evaluated_table(found: EvaluationResult) -> RenderableType:
    """``embedmig eval``."""
    head = Text(
        f"{found.collection}, {plural(found.queries, 'query', 'queries')} of {found.golden}; in brackets the 95 % interval"
    )
    measures = list(found.evaluations[0].metrics)
    figures = (*measures, "p50 ms", "p95 ms", "corpus")
    plain = all(one.name == one.version for one in found.evaluations)
    table = Rows(("version", "search", *figures), ("version", "search"), "version" if plain else "", right=figures)
    for one in found.evaluations:
        share = Text(percent(one.completeness), style="bold red" if one.version in found.partial else "")
        times = (f"{one.latency_ms[name]:.1f}" if one.latency_ms else "" for name in ("p50", "p95"))
        table.add(one.name, one.mode, *(_figure(name, one.metrics[name]) for name in measures), *times, share)
    return Group(head, table, *_partial(found), *_notes(found.notices))


def _partial(found: EvaluationResult) -> list[Text]:
    return [
        Text(f"{version} was measured on {percent(_newest(found, version).completeness)} of the corpus: opens no gate", style="bold red")
        for version in found.partial
    ]  # fmt: skip


def _newest(found: EvaluationResult, version: str) -> Evaluation:
    return next(one for one in found.evaluations if one.version == version)


def made_lines(made: DrawnGoldenSet) -> RenderableType:
    """``embedmig eval --make-golden``."""
    return Group(
        Text(f"{made.path}: {plural(made.queries, 'query', 'queries')}"), Text(made.shows), *_notes(made.notices)
    )


def compared_page(found: ComparisonResult) -> RenderableType:
    """``embedmig compare``."""
    result, k = found.comparison, found.k
    search = "exact search" if found.mode == "exact" else "through the index"
    lines = [
        Text(
            f"{found.collection}, {plural(found.queries, 'query', 'queries')} of {found.golden}, {search}; in brackets the 95 % interval"
        ),
        Text(
            f"old  {found.old}\nnew  {found.new}"
            + (f", which ranks {found.depth} that old finds" if found.depth else "")
        ),
        Text(f"overlap@{k}  {_spread(result.overlap)}"),
        Text(f"rank-biased overlap  {_spread(result.rbo)}"),
    ]
    if result.old_ndcg is not None and result.new_ndcg is not None:
        lines.append(Text(f"ndcg@{k}  {result.old_ndcg:.4f} → {result.new_ndcg:.4f}"))
    style = {"better": "bold green", "worse": "bold red"}.get(result.opinion.answer, "yellow")
    lines.append(Text(result.opinion.words, style=style))
    if found.partial:
        said = f"measured on {percent(found.completeness)} of the corpus: not reliable, and it opens no gate"
        lines.append(Text(said, style="bold red"))
    parts = [_tags(found), _distances(found), *(_changed(one) for one in result.changed)]
    return Group(*lines, *(part for part in parts if part), *_notes(found.notices))


def bridge_page(found: BridgeResult) -> RenderableType:
    """``embedmig bridge``."""
    lines = [
        Text(
            f"{found.collection}: queries of {found.source}, mapped to {found.target}; fitted on {plural(found.rows, 'row')}"
        )
    ]
    lines += [
        Text(
            f"{one['method']:<12}held out: cosine {one['cosine']:.3f}, {percent(one['neighbours'])} of the ten nearest neighbours found"
        )
        for one in found.fits
    ]
    table = Rows(("", "ndcg"), ("",))
    for way in found.options:
        table.add(way.name, f"{way.value:.3f} [{way.low:.3f}, {way.high:.3f}]")
    style = {"pays": "bold green", "does not pay": "bold red"}.get(found.answer or "", "yellow")
    return Group(*lines, *([table] if found.options else []), Text(found.words, style=style), *_notes(found.notices))


def _tags(found: ComparisonResult) -> RenderableType | None:
    if not found.comparison.tags:
        return None
    table = Rows(("tag", "queries", "overlap", "ndcg old", "ndcg new"), ("tag",))
    for one in found.comparison.tags:
        scores = ("" if score is None else f"{score:.3f}" for score in (one.old_ndcg, one.new_ndcg))
        table.add(one.tag, f"{one.queries:,}", f"{one.overlap:.3f}", *scores)
    return _titled("by tag", table)


def _distances(found: ComparisonResult) -> RenderableType | None:
    if not found.comparison.distances:
        return None
    table = Rows(("of the results", "old distance", "new distance"), ("of the results",))
    for one in found.comparison.distances:
        table.add(f"{one.share:.0%} nearer than", f"{one.old:.4f}", f"{one.new:.4f}")
    return _titled("distance thresholds that the same share of results passes", table)


def _changed(one: ChangedQuery) -> RenderableType:
    scores = "" if one.old_ndcg is None else f", ndcg {one.old_ndcg:.3f} → {one.new_ndcg:.3f}"
    table = Rows(("", "old", "new"), ("",), cut=("old", "new"))
    for place in range(max(len(one.old), len(one.new))):
        table.add(str(place + 1), _hit(one.old, place), _hit(one.new, place))
    return _titled(f"{one.query}  (overlap {one.overlap:.2f}{scores})", table)


def _hit(hits: Sequence[Hit], place: int) -> Text:
    """Key, distance, and the first of the columns that the alias shows."""
    if place >= len(hits):
        return Text("")
    hit = hits[place]
    first = next((str(value) for value in hit.columns.values()), "")
    return Text(f"{', '.join(hit.key_text)}  {hit.distance:.3f}  {first[:48]}".rstrip())


def _spread(measured: dict[str, float]) -> str:
    return f"{measured['value']:.3f} [{measured['low']:.3f}, {measured['high']:.3f}]"


def _titled(title: str, table: Rows) -> RenderableType:
    return Group(Text(f"\n{title}", style="italic"), table)


def _figure(name: str, measured: dict[str, float]) -> str:
    """A measure of quality with its interval; texts a query as they are."""
    return f"{measured['value']:.1f}" if name == "texts" else _spread(measured)


def _notes(notices: Sequence[str]) -> list[Text]:
    return [Text(f"note: {notice}", style="yellow") for notice in notices]


def cuts_table(found: CutsResult) -> RenderableType:
    """A line a threshold and version, with what it was carried over by."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in ("cut", "version", "similarity", "distance", "from"):
        table.add_column(column, overflow="fold")
    for cut in found.cuts:
        basis = "declared"
        if cut.carried_from:
            basis = f"{cut.carried_from}, {cut.above:,} {cut.pairs} pairs, 95 % [{cut.low:.3f}, {cut.high:.3f}]"
        active = " (active)" if cut.version == found.active else ""
        table.add_row(cut.name, cut.version + active, f"{cut.similarity:.4f}", f"≤ {cut.max_distance:.4f}", basis)
    return Group(table, *(Text(line, style="bold red") for line in found.unknown))

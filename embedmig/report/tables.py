"""Tables for the terminal. Colour carries no information of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.text import Text

from embedmig.formatting import duration, percent, plural, size, usd
from embedmig.gates.conditions import UNKNOWN_EDITS
from embedmig.gates.quality_verdict import QualityVerdict
from embedmig.report.layout import Line, Rows
from embedmig.revisions.states import in_words
from embedmig.types import GONE, Estimate, Verdict

if TYPE_CHECKING:  # a table of one command doesn't wait for all others
    from embedmig.commands.dry_run import PlannedRevision
    from embedmig.commands.history import HistoryEntry
    from embedmig.commands.project import PartlyDone
    from embedmig.commands.search import SearchResult
    from embedmig.commands.status import CollectionStatus, Rollback, SpaceStatus, Status
    from embedmig.engine.sync import Synced

STATE_STYLE = {
    "active": "bold green",
    "ready": "cyan",
    "building": "yellow",
    "retained": "",
    "retired": "dim",
    "released": "dim",
}


def status_table(status: Status) -> RenderableType:
    """``embedmig status``."""
    lines: list[RenderableType] = [Text(f"database    {status.database}")]
    lines.append(
        Text(
            f"current     {', '.join(status.current) or 'nothing applied'}   (head: {', '.join(status.heads) or 'none'})"
        )
    )
    under_way = status.running["revision"] if status.running and status.running["alive"] else None
    if status.pending and status.pending != [under_way]:
        lines.append(Text(f"pending     {', '.join(status.pending)}", style="yellow"))
    if status.running:
        lines += _running(status)
    elif status.last_attempt and status.last_attempt["status"] != "done":
        last = status.last_attempt
        lines.append(
            Text(
                f"last run    {last['revision']} {last['direction']} {last['status']}: {last['error'] or ''}",
                style="yellow",
            )
        )
    partly = [one for one in status.partly if one.revision != under_way]
    lines += [Text(f"partly      {_partly(one)}", style="bold red") for one in partly]
    lines += [Text(f"unreadable  {one['error']}", style="bold red") for one in status.unreadable]
    lines += [Text(f"differs     {one.in_words}; {one.command}", style="bold red") for one in status.undeclared]
    lines += [Text(f"not there   {one}", style="bold red") for one in status.unmade]
    if status.edited:
        lines.append(Text(f"edited      {', '.join(status.edited)}: not the script that was applied", style="bold red"))
    if status.missing_scripts:
        lines.append(
            Text(f"missing     {', '.join(status.missing_scripts)}: applied, but there is no script", style="bold red")
        )
    collections = (_collection(name, found) for name, found in status.collections.items())
    return Group(*lines, *collections, *([Text(f"\nnext: {status.next}")] if status.next else []))


def _running(status: Status) -> list[RenderableType]:
    """The run, its stage, and how far it is."""
    found = status.running or {}
    tags = [space.version for one in status.collections.values() for space in one.spaces]
    more = "" if found["alive"] else "; run the same command again to resume"
    what = f"{found['revision']} {found['direction']} by {found['by']}{more}"
    lines = [f"{'running' if found['alive'] else 'died':<11} {what}"]
    stage = [f"{found['position']}. {found['operation']}"] if found["operation"] else []
    rate, left, seconds = found["rows_per_second"], found["rows_left"], found["eta_seconds"]
    figures = [f"{plural(found['rows_done'], 'row')} embedded"] if found["rows_done"] else []
    figures += [f"{rate:,.0f} rows/s"] if rate else []
    figures += [f"{plural(left, 'row')} left"] if left is not None else []
    figures += [f"about {duration(seconds)}"] if seconds is not None else []
    figures += [f"{usd(found['cost_usd'])}"] if found["cost_usd"] is not None else []
    lines += [f"  stage     {': '.join([*stage, ', '.join(figures)])}"] if stage else []
    return [Line(Text(line, style="yellow"), tags) for line in lines]


def _partly(found: PartlyDone) -> str:
    """A revision that no run has brought to an end, and what leads out of it."""
    return f"{found.in_words}: embedmig upgrade {found.revision} goes on, embedmig downgrade -1 takes it back"


def _collection(name: str, found: CollectionStatus) -> RenderableType:
    blank = f", {found.blank_rows:,} without text" if found.blank_rows else ""
    shown = f"shows {found.active}" if found.active else "shows nothing yet"
    about = "about " if found.counted == "estimated" else ""
    rows = "rows unknown" if found.error else f"{about}{plural(found.source_rows, 'row')}{blank}"
    captured = f", capture {found.capture}" if found.capture in CAPTURED else ""
    head = Text(f"\n{name}: {rows}{captured}; alias {found.alias} {shown}", style="bold")
    if found.error:
        states = [Text(f"{space.state}  {space.version}") for space in found.spaces]
        return Group(head, _fault(found.error, found.hint), *_differences(found), *states)
    if not found.spaces:
        return head
    tags = [space.version for space in found.spaces]
    table = Rows(
        ("state", "version", "rows", "complete", "index", "size", "notes"), ("version",), "version",
        right=("rows", "complete", "size"), prose=("notes",), bare=("state", "size", "notes"),
    )  # fmt: skip
    for space in found.spaces:
        state = Text(space.state, style=STATE_STYLE.get(space.state, ""))
        table.add(state, space.version, *_figures(space), _notes(space))
    lines = [quality_line(found.quality)] if found.quality else []
    lines += [] if found.capture in CAPTURED else [_capture(found)]
    lines += [Text(found.alias_fault, style="bold red")] if found.alias_fault else []
    lines += [_fault(f"{space.version}: {space.fault}", space.hint) for space in found.spaces if space.fault]
    lines += [
        Text(f"{space.version}: {space.hint}", style="yellow")
        for space in found.spaces
        if space.hint and not space.fault
    ]
    lines += _differences(found)
    lines += [Text(found.held_back, style="yellow")] if found.held_back else []
    lines += [_rollback(found.rollback)] if found.rollback else []
    lines += [Text(words, style="yellow") for space in found.spaces if (words := model_ends(space))]
    kept = {space.version: space.keeping for space in found.spaces if space.keeping and costs_money(space.keeping)}
    lines += [Text(f"keeping {version} {keeping_costs(costs)}") for version, costs in kept.items()]
    return Group(Line(head, tags), table, *(Line(line, tags) for line in lines))


CAPTURED = ("installed", "watermark", "none")

QUALITY_STYLE = {"better": "bold green", "worse": "bold red", "first version": ""}


def quality_line(found: QualityVerdict, label: str = "quality") -> Text:
    """Green for a version alone that was shown to be better."""
    return Text(f"{label} {found.words}", style=QUALITY_STYLE.get(found.answer, "yellow"))


def _capture(found: CollectionStatus) -> Text:
    """Why changes are not captured, and what to do."""
    why = f" {found.capture_note}" if found.capture_note else ""
    return Text(
        f"capture {found.capture}{why}; embedmig sync --repair installs it and compares every row", style="bold red"
    )


def _figures(space: SpaceStatus) -> tuple[str, str, str, str]:
    """Rows, completeness, index and size; nothing where nothing is watched, or could be measured."""
    if space.fault or space.state in GONE:
        return "", "", "", ""
    about = _about(space)
    return f"{about}{space.rows:,}", f"{about}{percent(space.completeness)}", space.index, size(space.bytes)


def _differences(found: CollectionStatus) -> list[Text]:
    """Where the configuration is not what is live, and the command that carries it out."""
    return [Text(f"differs     {one.in_words}; {one.command}", style="yellow") for one in found.differences]


def _fault(message: str, hint: str | None) -> Text:
    return Text(f"{message}; {hint}" if hint else message, style="bold red")


def _rollback(found: Rollback) -> Text:
    if found.fault:
        return Text(f"rollback to {found.to}: not possible: {found.fault}", style="bold red")
    took = "one flip" if found.milliseconds is None else f"about {found.milliseconds:,.0f} ms, like the last flip"
    stale = "no rows known to be out of date" if not found.rows else f"rows out of date: {_about(found)}{found.rows:,}"
    if found.rows and found.oldest_seconds:
        stale += f", the oldest change {found.oldest_seconds:,.0f} s old"
    if found.edits == "unknown":
        stale = f"rows without a vector: {_about(found)}{found.rows:,}; {UNKNOWN_EDITS}"
    line = Text(f"rollback to {found.to}: {took}; {stale}")
    return line.append(f"; its model is not available: {found.obstacle}", style="bold red") if found.obstacle else line


def costs_money(found: Mapping[str, Any] | None) -> bool:
    """Whether somebody is paid for keeping a version fresh, or might be."""
    return bool(found and found["texts_per_month"] and found["usd_per_month"] != 0)


def keeping_costs(found: Mapping[str, Any]) -> str:
    """What it takes to keep a version, and until when that must be."""
    texts = (
        "at an unknown rate of change" if found["texts_per_month"] is None else f"{found['texts_per_month']:,} texts"
    )
    usd = "at an unknown price" if found["usd_per_month"] is None else f"${found['usd_per_month']:,.2f}"
    until = f"; it may be retired from {found['retire_from']}" if "retire_from" in found else ""
    return f"takes up to {texts} a month, {usd}, and {size(found['bytes'])}{until}"


def model_ends(space: SpaceStatus) -> str:
    """Until when the version's model is served, and what ends with it; empty where no day is known."""
    if space.model_days_left is None:
        return ""
    left = space.model_days_left
    when = f"in {plural(left, 'day')}" if left > 0 else "today" if left == 0 else "which is past"
    lost = "a rollback to it finds nothing after that" if space.state == "retained" else "queries need it"
    return f"{space.version}: its model ends on {space.model_ends}, {when}; {lost}"


def _about(measured: SpaceStatus | Rollback) -> str:
    """What stands before a figure that was not counted."""
    return "~" if measured.counted == "estimated" else ""


def _compacted(found: Mapping[str, Any]) -> str:
    """What a compaction has made of a version, or that it is not over."""
    if not found["done"]:
        return "compaction not finished"
    index = "" if found["index"] == "keep" else ", no index"
    return f"half precision{index}: {size(found['bytes'][0])} before"


def _notes(space: SpaceStatus) -> str:
    notes = [f"estimated, ± {100 * space.completeness_error:.1f} %"] if space.counted == "estimated" else []
    notes += [_compacted(space.compacted)] if space.compacted else []
    notes += [f"{space.failed_rows:,} refused"] if space.failed_rows else []
    notes += [f"{sum(one['rows'] for one in space.batches):,} in batches at the API"] if space.batches else []
    notes += [f"{space.pending_changes:,} pending"] if space.pending_changes else []
    notes += [f"{plural(space.orphans, 'orphan')}"] if space.orphans else []
    notes += [f"{space.untagged:,} untagged"] if space.untagged else []
    notes += ["not there"] if space.fault else []
    notes += ["content unknown"] if space.content == "unknown" and space.state not in GONE and not space.fault else []
    notes += [f"{name} {value:.3f}" for name, value in space.evals.items() if name.startswith("ndcg")]
    if partial := space.partial_evals:
        score = next((f"{name} {value:.3f}" for name, value in partial.items() if name.startswith("ndcg")), "evaluated")
        notes.append(f"{score} on only {percent(partial['completeness'])} of the corpus")
    notes += [_rerank(space.rerank)] if space.rerank else []
    notes += [space.rescue] if space.rescue else []
    notes += [f"cut {name} {value:g}" for name, value in space.cuts.items()]
    return ", ".join(notes)


def _rerank(counts: Mapping[str, Any]) -> str:
    """What a version did for reads."""
    reads, candidates = counts["reads"], counts["candidates"]
    said = f"re-ranked {percent(counts['reranked'] / reads)} of {plural(reads, 'read')}, " if reads else ""
    said += f"{percent(counts['found'] / candidates)} of candidates found, " if candidates else ""
    cost = f", {usd(counts['cost'])}" if counts["cost"] else ""
    return f"{said}{plural(counts['texts'], 'text')} embedded for reads{cost}"


def history_lines(entries: Sequence[HistoryEntry]) -> RenderableType:
    """``embedmig history`` and ``heads``: ``0001 → 0002 (head), message``."""
    lines = []
    for entry in entries:
        marks = "".join(f" ({mark})" for mark in ("head" if entry.head else "", *entry.labels) if mark)
        applied = in_words(entry.state or "") + (f"  unreadable: {entry.error}" if entry.error else "")
        lines.append(
            Text(
                f"{' + '.join(entry.down_revisions) or 'base'} → {entry.revision}{marks}  {entry.message}  {applied}".rstrip()
            )
        )
    return Group(*lines) if lines else Text("no revisions yet")


def plan_tables(planned: Sequence[PlannedRevision], *, as_sql: bool) -> RenderableType:
    """``--dry-run`` and ``--sql``."""
    if not planned:
        return Text("-- nothing to do" if as_sql else "nothing to do")
    return Group(*((_plan_sql if as_sql else _plan_table)(revision) for revision in planned))


def _plan_table(planned: PlannedRevision) -> RenderableType:
    figures = ("rows", "tokens", "cost", "disk")
    table = Rows(("operation", *figures), ("operation",), right=figures, prose=("operation",))
    for operation in planned.operations:
        table.add(operation.description, *_estimate(operation.estimate))
        if operation.estimate.note:
            table.add(Text(f"  {operation.estimate.note}", style="dim"))
    return Group(Text(f"{planned.direction} {planned.revision}  {planned.message}", style="italic"), table)


def _estimate(estimate: Estimate) -> tuple[str, str, str, str]:
    if estimate == Estimate():
        return "", "", "", ""
    cost = "" if estimate.rows is None else "unknown" if estimate.cost is None else f"${estimate.cost:,.2f}"
    rows, tokens = (f"{number:,}" if number is not None else "" for number in (estimate.rows, estimate.tokens))
    return rows, tokens, cost, size(estimate.bytes)


def _plan_sql(planned: PlannedRevision) -> RenderableType:
    lines = [f"-- {planned.direction} {planned.revision}: {planned.message}"]
    for operation in planned.operations:
        lines.append(f"-- {operation.kind}: {operation.description}")
        if isinstance(operation.sql, str):
            lines.append(f"--   {operation.sql}")
        else:
            lines += [f"{statement};" for statement in operation.sql]
    return Text("\n".join(lines))


def verdict_table(verdicts: Sequence[Verdict]) -> RenderableType:
    """A gate: what was measured, what is required, and what would open it."""
    columns = ("gate", "value", "required", "", "what would open it")
    table = Rows(columns, ("gate",), prose=("value", "required", "what would open it"), bare=("", "what would open it"))
    for verdict in verdicts:
        state = Text("open", style="green") if verdict.passed else Text("closed", style="bold red")
        table.add(verdict.name, str(verdict.value), str(verdict.threshold), state, verdict.advice)
    return table


def hits_table(found: SearchResult) -> RenderableType:
    """``embedmig search``."""
    columns = list(found.hits[0].columns) if found.hits else []
    chunked = any(hit.end is not None for hit in found.hits)
    chunks = ("chunk", "characters") if chunked else ()
    table = Rows(("", "distance", "key", *chunks, *columns), ("", "key"), cut=columns)
    for place, hit in enumerate(found.hits, 1):
        where = (str(hit.chunk), f"{hit.start}-{hit.end}") if chunked else ()
        shown = (str(hit.columns[column]) for column in columns)
        table.add(str(place), f"{hit.distance:.4f}", ", ".join(hit.key_text), *where, *shown)
    head = Text(f"{found.version}{_recall(found)}  ({found.milliseconds:.0f} ms, model included)", style="italic")
    return Group(head, table) if found.hits else Text(f"nothing found through {found.version}")


def _recall(found: SearchResult) -> str:
    """What else had a part in a search."""
    if found.bridged_from:
        return f", through a bridge from {found.bridged_from} ({found.loss})"
    if found.why:
        return f", not re-ranked: {found.why}"
    return f", recalled by {found.recalled_by}" if found.recalled_by not in ("", found.version) else ""


def synced_table(found: Sequence[Synced]) -> RenderableType:
    """``embedmig sync``."""
    if not found:
        return Text("no space to sync yet")
    columns = ("collection", "version", "rows", "refused", "pending", "")
    table = Rows(columns, ("collection", "version"), "version", prose=("",), bare=("",))
    for one in found:
        error = Text(one.error or "", style="bold red")
        table.add(one.collection, one.version, f"{one.rows:,}", f"{one.failed:,}", f"{one.waiting:,}", error)
    return table

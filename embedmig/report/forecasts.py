"""The output of ``plan`` and ``show``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from embedmig.commands.plan import Duration, Forecast, Plan, Sizes
from embedmig.commands.show import RevisionDetails
from embedmig.formatting import duration, plural, size, usd
from embedmig.report.tables import costs_money, keeping_costs, plan_tables
from embedmig.types import RERANK_DEPTH


def plan_page(outlook: Plan) -> RenderableType:
    """``embedmig plan``."""
    advice = [Text(f"{name}: {advice.strategy}: {advice.reason}") for name, advice in outlook.advice.items()]
    kept = [
        Text(f"keeping {version} for a rollback {keeping_costs(costs)}")
        for version, costs in outlook.keeping.items() if costs_money(costs)
    ]  # fmt: skip
    return Group(plan_tables(outlook.revisions, as_sql=False), *map(_forecast, outlook.forecasts), *advice, *kept)


def _forecast(found: Forecast) -> Text:
    lines = [f"\n{found.revision}: {found.version} of {found.space.collection}", f"  tokens  {_tokens(found)}"]
    lines += [f"  cost    {_cost(found)}", f"  time    {_time(found.time)}"]
    lines += [f"  model   {_ends(found)}"] if found.sunset else []
    if found.probe:
        tokens = "tokens not reported" if found.probe.tokens is None else f"{found.probe.tokens:,} tokens"
        lines.append(
            f"          the probe itself: {plural(found.probe.texts, 'text')}, {tokens}, {usd(found.probe_cost)}"
        )
    if found.reads_per_second:
        lines.append(f"  reads   {_reads(found)}")
    if found.space.external:
        held = size(found.sizes[found.space.storage].table)
        lines.append(f"  disk    {held} of vectors in {found.space.store}, and what its index takes")
        return Text("\n".join(lines))
    for storage, sizes in found.sizes.items():
        declared = ", as declared" if storage == found.space.storage else ""
        lines.append(f"  disk    {storage}{declared}: {_disk(sizes)}")
    lines += [f"  index   {found.index.reason}"] if found.index else []
    return Text("\n".join([*lines, f"  memory  {_memory(found)}"]))


def _reads(found: Forecast) -> str:
    """What re-ranking reads would have embedded, at the rate that was counted."""
    rate = found.reads_per_second or 0.0
    rows = found.estimate.rows or 0
    most = f"at most {rate * RERANK_DEPTH:,.0f} texts/s of these {rows:,} rows"
    return f"re-ranked, {rate:,.2g} reads/s as counted have {most} embedded first; they cost no more than the backfill in all, but for the queries"


def _tokens(found: Forecast) -> str:
    count = found.estimate.tokens
    return (
        f"{count:,}: {found.estimate.note.partition('; ')[0].removeprefix('tokens ')}"
        if count is not None
        else "unknown"
    )


def _cost(found: Forecast) -> str:
    estimate = found.estimate
    if estimate.price is None:
        return f'unknown: no price for {found.space.model}; [embedders.{found.space.provider}.prices] "{found.space.name}" = USD per million tokens'
    if estimate.price == 0:
        return f"{usd(estimate.cost)}: {estimate.price_from}"
    error = estimate.price * (estimate.tokens_error or 0) / 1e6
    return f"{usd(estimate.cost)} ± {usd(error)}: ${estimate.price:g} per million tokens, {estimate.price_from}"


def _time(found: Duration) -> str:
    if found.seconds is None:
        return f"unknown: {found.known_by}"
    between = "" if found.low is None or found.high is None else f" ({duration(found.low)} to {duration(found.high)})"
    return f"about {duration(found.seconds)}{between}: {found.known_by}"


def _ends(found: Forecast) -> str:
    """When the model is served no more, and whether the backfill is over by then."""
    assert found.sunset is not None
    seconds, left = found.time.high or found.time.seconds, found.sunset.days_left()
    if seconds is None:
        over = "how long the backfill takes is unknown"
    elif seconds < left * 86_400:
        over = f"the backfill is over {plural(int(left - seconds / 86_400), 'day')} before that"
    else:
        over = "the backfill is not over by then"
    return f"{found.sunset.words()}: {over} ({found.sunset.source})"


def _disk(sizes: Sizes) -> str:
    index = "no index" if sizes.index is None else f"index {size(sizes.index)}"
    return f"table {size(sizes.table)}, {index}; {size(sizes.peak)} at the peak, with write-ahead log"


def _memory(found: Forecast) -> str:
    wanted = {storage: sizes.memory for storage, sizes in found.sizes.items() if sizes.memory is not None}
    if not wanted:
        return "no index is built"
    enough = found.server_memory >= wanted.get(found.space.storage, max(wanted.values()))
    verdict = "enough" if enough else "too small, so create_index sets its own"
    words = ", ".join(f"{size(memory)} as {storage}" for storage, memory in wanted.items())
    return f"the index build needs {words}; the server's maintenance_work_mem is {size(found.server_memory)}: {verdict}"


def shown_script(shown: RevisionDetails) -> RenderableType:
    """``embedmig show``."""
    lines = [
        f"{shown.entry.revision}  {shown.entry.message}",
        f"file      {shown.entry.path}",
        f"checksum  {shown.checksum}",
        "upgrade",
    ]
    lines += [f"  {number}. {line}" for number, line in enumerate(shown.upgrade, 1)] or ["  nothing"]
    lines += ["downgrade"] + (
        ["  there is none"]
        if shown.downgrade is None
        else [f"  {n}. {line}" for n, line in enumerate(shown.downgrade, 1)] or ["  nothing"]
    )
    lines += ["attempts"] if shown.attempts else []
    for attempt in shown.attempts:
        lines.append(
            f"  {attempt['started_at'][:19]}  {attempt['direction']}  {attempt['status']}  {plural(attempt['rows_done'], 'row')}  by {attempt['by']}"
            + ("  of another script" if attempt["same_script"] is False else "")
        )
        lines += [f"    {line}" for one in attempt["backfills"] for line in estimate_lines(one)]
    return Text("\n".join(lines))


def estimate_lines(found: Mapping[str, Any]) -> list[str]:
    """The estimate of a backfill beside the truth, one figure a column."""
    rows = [("estimated", found["estimate"]), ("took", found["truth"])]
    return [f"{name:<10} {_figures(values)}" for name, values in rows if values]


def _figures(values: Mapping[str, Any]) -> str:
    tokens = "tokens unknown" if values["tokens"] is None else f"{values['tokens']:,} tokens"
    seconds = "time unknown" if values["seconds"] is None else duration(values["seconds"])
    return f"{plural(values['rows'], 'row')}, {tokens}, {usd(values['cost_usd'])}, {seconds}, {size(values['bytes'])}"

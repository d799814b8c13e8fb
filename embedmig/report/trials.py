"""The output of ``try``."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from embedmig.commands.try_models import TrialResult
from embedmig.formatting import duration, plural, size, usd
from embedmig.quality.trial import Trial
from embedmig.report.layout import Rows

COLUMNS = ("candidate", "dim", "nDCG", "better", "cost", "time", "query", "disk", "recall")


def trial_page(found: TrialResult) -> RenderableType:
    """``embedmig try``."""
    head = (
        f"{found.collection}: {plural(found.sample, 'row')} of {found.rows:,}, {found.judged_rows:,} of them judged; "
    )
    head += f"{plural(found.queries, 'query', 'queries')} of {found.golden}"
    table = Rows(COLUMNS, COLUMNS[:1], right=COLUMNS[1:])
    if found.live:
        table.add(f"{found.live} (live)", "", _score(found.live_scores, found.k))
    for trial in found.trials:
        table.add(*_row(trial, found.k))
    notes = [f"{one.candidate}: {said}" for one in found.trials if (said := one.error or one.warning)]
    return Group(
        Text(head, style="bold"),
        table,
        *(Text(line, style="yellow") for line in (*dict.fromkeys(notes), *found.notices)),
    )


def _row(trial: Trial, k: int) -> tuple[str, ...]:
    if trial.error:
        return trial.candidate, str(trial.dimensions or ""), "failed"
    form = f"{trial.dimensions}{' half' if trial.storage != 'vector' else ''}{' cut' if trial.cut else ''}"
    waits = [f"{times['p50']:,.0f}/{times['p95']:,.0f} ms" for times in (trial.model_ms, trial.search_ms) if times]
    return (
        trial.candidate, form, _score(trial.scores, k) or _overlap(trial), _better(trial), usd(trial.cost),
        "" if trial.seconds is None else duration(trial.seconds), " + ".join(waits), size(trial.disk_bytes or 0),
        ", ".join(f"{share:.3f}@{ef}" for ef, share in trial.index_recall.items()),
    )  # fmt: skip


def _score(scores: dict[str, dict[str, float]], k: int) -> str:
    found = scores.get(f"ndcg@{k}")
    return f"{found['value']:.3f} ({found['low']:.3f} to {found['high']:.3f})" if found else ""


def _overlap(trial: Trial) -> str:
    return f"overlap {trial.overlap['value']:.2f}" if trial.overlap else ""


def _better(trial: Trial) -> str:
    return "can't say" if trial.probability_better is None else f"{trial.probability_better:.0%}"

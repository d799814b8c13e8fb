"""What ``try`` measured as one HTML file: quality with its interval against price and against size, and the table. No network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from embedmig.commands.try_models import TrialResult
from embedmig.formatting import duration, plural, size, usd
from embedmig.quality.trial import Trial
from embedmig.report.html import rendered, write_page

TICKS = 4
NEAR = 0.02  # shares of the picture: nearer than that, rows share one mark


@dataclass(frozen=True, slots=True)
class Point:
    """Rows of the table that lie on one place, by their numbers; places are shares of the picture's width and height, from below."""

    number: str
    x: float
    y: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Picture:
    """Quality against one thing that it costs. ``words`` say what is seen; ``left_out`` are rows of which that price is unknown."""

    title: str
    words: str
    points: list[Point]
    across: list[tuple[float, str]]
    up: list[tuple[float, str]]
    live: float | None
    left_out: list[int]


def write_trials(found: TrialResult, path: Path) -> Path:
    """Writes the page and returns where. Raises :class:`UsageError` where it can't be written."""
    return write_page(trials_html(found), path, "--html FILE names another file")


def trials_html(found: TrialResult) -> str:
    """Renders the page; no text of the collection is on it."""
    return rendered(
        "trials.html.j2", found=found, numbered=list(enumerate(found.trials, 1)), pictures=pictures(found), measure=measure_name(found),
        quality=quality, live=_live(found), size=size, usd=usd, duration=duration, plural=plural,
    )  # fmt: skip


def measure_name(found: TrialResult) -> str:
    """What stands for quality."""
    return f"nDCG@{found.k}" if found.live_scores or any(one.scores for one in found.trials) else "overlap with what is live"  # fmt: skip


def quality(trial: Trial, k: int) -> dict[str, float] | None:
    """``value``, ``low`` and ``high``: of nDCG, or without judgements of the overlap with the live version; None where neither is known."""
    return trial.scores.get(f"ndcg@{k}") or trial.overlap


def pictures(found: TrialResult) -> list[Picture]:
    """Against size and, where it is known of any candidate, against price; none where no quality is known."""
    shown = [(n, one) for n, one in enumerate(found.trials, 1) if not one.error and quality(one, found.k)]
    if not shown:
        return []
    by_size = _picture(found, shown, "size on disk, with its index", lambda one: one.disk_bytes, size)
    priced = [one for _, one in shown if one.cost]
    by_price = [_picture(found, shown, "price of embedding the whole collection", lambda one: one.cost, usd)]
    return [*(by_price if priced else []), by_size]


def _picture(
    found: TrialResult, shown: Sequence[tuple[int, Trial]], of: str, price: Callable[[Trial], float | None], words: Callable[[float], str]
) -> Picture:  # fmt: skip
    live = _live(found)
    known = [(n, one, cost) for n, one in shown if (cost := price(one)) is not None]
    spread = [one for _, trial in shown if (one := quality(trial, found.k))]
    bottom = max(0.0, min([one["low"] for one in spread] + ([live] if live is not None else [])) - 0.02)
    top = min(1.0, max([one["high"] for one in spread] + ([live] if live is not None else [])) + 0.02)
    most = max([cost for *_, cost in known], default=0.0) * 1.08 or 1.0

    def up(value: float) -> float:
        return (value - bottom) / (top - bottom)

    points: list[Point] = []
    for n, trial, cost in known:
        one = quality(trial, found.k) or {}
        point = Point(str(n), cost / most, up(one["value"]), up(one["low"]), up(one["high"]))
        near = next((other for other in points if abs(other.x - point.x) + abs(other.y - point.y) < NEAR), None)
        if near:
            points[points.index(near)] = replace(near, number=f"{near.number}, {n}")
        else:
            points.append(point)
    name = measure_name(found)
    told = "; ".join(f"{n}: {_told(trial, found.k)} at {words(cost)}" for n, trial, cost in known)
    return Picture(
        f"{name} against {of}", f"{name} with its 95 % interval against {of}. {told}.", points,
        [(place / TICKS, words(most * place / TICKS)) for place in range(TICKS + 1)],
        [(place / TICKS, f"{bottom + (top - bottom) * place / TICKS:.2f}") for place in range(TICKS + 1)],
        None if live is None else up(live), [n for n, one in shown if price(one) is None],
    )  # fmt: skip


def _told(trial: Trial, k: int) -> str:
    one = quality(trial, k) or {}
    return f"{one['value']:.3f} ({one['low']:.3f} to {one['high']:.3f})"


def _live(found: TrialResult) -> float | None:
    one = found.live_scores.get(f"ndcg@{found.k}")
    return one["value"] if one else None

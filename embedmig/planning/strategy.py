"""Which way of moving fits a collection: by its size, the time it takes, and how fast it goes stale. Pure advice."""

from __future__ import annotations

from dataclasses import dataclass

from embedmig.formatting import duration

QUARTER, DAY = 900.0, 86_400.0


@dataclass(frozen=True, slots=True)
class Advice:
    """A strategy of ``embedmig revision --strategy``, and why."""

    strategy: str
    reason: str


def advise(rows: int, seconds: float | None, changes_per_second: float | None) -> Advice:
    """``seconds`` is what the backfill would take, None where nothing was measured yet."""
    if seconds is not None and changes_per_second and rows and changes_per_second >= rows / seconds:
        return Advice(
            "parallel",
            f"the source changes {changes_per_second:,.1f} rows/s, as fast as rows are embedded: more workers or a quicker "
            "model first; until then serve both versions",
        )
    if seconds is None:
        size = "small" if rows < 100_000 else "large"
        return Advice(
            "all-at-once", f"{rows:,} rows; how long they take is unknown until a first run has measured it ({size})"
        )
    if seconds < QUARTER:
        return Advice("all-at-once", f"about {duration(seconds)}: one embedmig upgrade does it")
    if seconds < DAY:
        return Advice(
            "all-at-once",
            f"about {duration(seconds)}: embedmig upgrade --no-wait, embedmig backfill on a worker, embedmig sync --follow beside it",
        )
    return Advice(
        "lazy",
        f'about {duration(seconds)}: what is read comes first (backfill order="hot", Reader(lazy=True)), the rest behind it',
    )

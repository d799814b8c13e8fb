"""The course of a run, drawn as it happens: a live bar in a terminal, a plain line every 30 seconds elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as Bar
from rich.text import Text

from embedmig.engine.sync import Synced
from embedmig.events import (
    Event,
    GateEvaluated,
    Notice,
    OperationFinished,
    OperationStarted,
    RevisionFinished,
    RevisionStarted,
)
from embedmig.formatting import duration, plural
from embedmig.report.tables import verdict_table
from embedmig.types import Progress

PLAIN_SECONDS = 30.0


class Live:
    """Hears of everything that a run does and draws it on ``console`` (stderr). Used as a context manager."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._bar: Bar | None = None
        self._task: TaskID | None = None
        self._said = clock()

    def __enter__(self) -> Live:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end_bar()

    def __call__(self, event: Event) -> None:
        match event:
            case Progress():
                self._progress(event)
            case OperationStarted():
                self._said = self._clock()
            case OperationFinished():
                self._end_bar()
                self._line(event)
            case GateEvaluated():
                self._end_bar()
                if not all(verdict.passed for verdict in event.verdicts):
                    self._console.print(verdict_table(event.verdicts))
            case RevisionStarted():
                self._console.print(Text(f"{event.direction} {event.revision}  {event.message}", style="bold"))
            case RevisionFinished():
                self._console.print(Text(f"{event.direction} {event.revision} done in {duration(event.seconds)}"))
            case Notice():
                self._console.print(Text(event.text, style="yellow"))

    def _line(self, event: OperationFinished) -> None:
        took = "" if event.skipped else f"  ({duration(event.seconds)})"
        self._console.print(Text(f"  {event.kind:<13} {event.outcome}{took}"), soft_wrap=True)

    def _progress(self, event: Progress) -> None:
        if self._console.is_terminal:
            self._draw(event)
        elif self._clock() - self._said >= PLAIN_SECONDS:
            self._said = self._clock()
            self._console.print(Text(f"  {describe(event)}"), soft_wrap=True)

    def _draw(self, event: Progress) -> None:
        if self._bar is None or self._task is None:
            self._bar = Bar(TextColumn("  {task.description}"), BarColumn(24), TextColumn("{task.fields[figures]}"),
                            console=self._console, transient=True)  # fmt: skip
            self._task = self._bar.add_task(event.what, total=event.total, figures="")
            self._bar.start()
        completed = event.done if event.total is None else min(event.done, event.total)
        self._bar.update(self._task, completed=completed, total=event.total, figures=figures(event))

    def _end_bar(self) -> None:
        if self._bar is not None:
            self._bar.stop()
        self._bar = self._task = None


class HealthLine:
    """What a syncing daemon says: a line when it did something, and one every 30 seconds that it is alive.

    A line has every error since the line before, and of each space what its last pass left: most passes end between two.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._said = float("-inf")
        self._last: dict[tuple[str, str], Synced] = {}
        self._errors: dict[str, None] = {}

    def __call__(self, found: Sequence[Synced]) -> None:
        rows = sum(one.rows for one in found)
        self._last.update({(one.collection, one.version): one for one in found})
        self._errors.update({f"; {one.version or one.collection}: {one.error}": None for one in found if one.error})
        if not self._last or (not rows and self._clock() - self._said < PLAIN_SECONDS):
            return  # before the first pass has ended nothing is known
        self._said = self._clock()
        waiting = sum(one.waiting for one in self._last.values())
        oldest = max(one.oldest_seconds for one in self._last.values())
        errors, self._errors = "".join(self._errors), {}
        line = f"{datetime.now(UTC):%H:%M:%S} synced {plural(rows, 'row')}, {waiting:,} wait, oldest {duration(oldest)}{errors}"
        self._console.print(Text(line), soft_wrap=True)


def describe(event: Progress) -> str:
    return f"{event.what}: {figures(event)}"


def figures(event: Progress) -> str:
    """``5,000/8,000 rows · 62 % · 11,200 rows/s · 400,000 tokens · 12 s left``; never more than all there is."""
    done = event.done if event.total is None else min(event.done, event.total)
    parts = [f"{done:,}" + (f"/{event.total:,}" if event.total is not None else "") + f" {event.unit}".rstrip()]
    if event.total:
        parts.append(f"{100 * done // event.total} %")
    if event.rate and event.unit:
        parts.append(f"{event.rate:,.0f} {event.unit}/s")
    if event.tokens:
        parts.append(f"{event.tokens:,} tokens")
    if event.cost:
        parts.append(f"${event.cost:,.4f}")
    if event.failed:
        parts.append(f"{event.failed:,} refused")
    if event.held_by:
        parts.append(event.held_by)
    if (left := event.eta_seconds) is not None:
        parts.append(f"{duration(left)} left")
    return " · ".join(parts)

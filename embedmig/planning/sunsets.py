"""When a provider stops serving a model: announced days, each with its source; ``[sunsets]`` goes before them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime

from embedmig.config import Config
from embedmig.planning.prices import host_of
from embedmig.types import Space

GOOGLE = "generativelanguage.googleapis.com"
GEMINI_BLOG = "https://developers.googleblog.com/en/gemini-embedding-available-gemini-api/"
GEMINI_MAIL = "https://git.drupalcode.org/project/gemini_provider/-/work_items/3550425, which quotes Google's letter"
ANNOUNCED: Mapping[tuple[str, str], tuple[date, str]] = {
    (GOOGLE, "text-embedding-004"): (date(2026, 1, 14), GEMINI_BLOG),
    (GOOGLE, "embedding-001"): (date(2025, 10, 30), GEMINI_MAIL),
    (GOOGLE, "gemini-embedding-exp"): (date(2025, 10, 30), GEMINI_MAIL),
    (GOOGLE, "gemini-embedding-exp-03-07"): (date(2025, 10, 30), GEMINI_MAIL),
}
"""By host and model, read on 2026-11-26. What is not listed is not known; OpenAI had announced no day for its three then."""


@dataclass(frozen=True, slots=True)
class Sunset:
    """From ``day`` on the provider no longer serves ``model``; ``source`` is who says so."""

    model: str
    day: date
    source: str

    def days_left(self, today: date | None = None) -> int:
        """Days until then, UTC; 0 on the day, negative after it."""
        return (self.day - (today or datetime.now(UTC).date())).days

    def words(self, today: date | None = None) -> str:
        """For people: the model, the day, and how far it is."""
        left = self.days_left(today)
        when = f"in {left:,} day{'' if left == 1 else 's'}" if left > 0 else "today" if left == 0 else "gone"
        return f"{self.model} ends on {self.day} ({when})"


def find_sunset(space: Space, config: Config) -> Sunset | None:
    """The first day on which a model of the space ends, that of documents or that of queries; None where none is known."""
    found = [one for side in {space, space.query_side} if (one := _of(side, config))]
    return min(found, key=lambda one: one.day, default=None)


def _of(space: Space, config: Config) -> Sunset | None:
    if space.model in config.sunsets:
        return Sunset(space.model, config.sunsets[space.model], "[sunsets]")
    listed = ANNOUNCED.get((host_of(space, config.settings(space.provider)), space.name))
    return Sunset(space.model, *listed) if listed else None

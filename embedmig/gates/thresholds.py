"""Thresholds that a script sets on evidence; checked before anything runs."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import UTC, datetime

from embedmig.config.toml_values import parse_duration
from embedmig.errors import ConfigError, PlanError
from embedmig.types import Space


@dataclass(frozen=True, slots=True)
class Within:
    """At most ``drop`` below what the version ``of`` has, measured with the same golden set."""

    drop: float
    of: str


def within(drop: float, *, of: Space | str) -> Within:
    """``op.gate(NEW, ndcg_at_10=within(0.01, of=OLD))``: NEW may be 0.01 below OLD, and no more."""
    return Within(drop, of.tag if isinstance(of, Space) else of)


@dataclass(frozen=True, slots=True)
class Evidence:
    """Thresholds of a gate beyond completeness and freshness; None: not a condition.

    ``soak`` is a duration, ``not_before`` an ISO date or time (UTC unless it says otherwise): it can keep a gate
    closed and never opens it.
    """

    ndcg_at_10: float | Within | None = None
    overlap_at_10: float | None = None
    shadow_samples: int | None = None
    shadow_p95_ms: float | None = None
    soak: str | None = None
    not_before: str | None = None

    @property
    def given(self) -> list[str]:
        """The names of the thresholds that are set."""
        return [field.name for field in fields(self) if getattr(self, field.name) is not None]

    @property
    def soak_seconds(self) -> float:
        """The duration in seconds; 0 where none is set."""
        return parse_duration(self.soak) if self.soak else 0.0

    @property
    def earliest(self) -> datetime | None:
        """``not_before`` with its time zone."""
        return moment(self.not_before) if self.not_before else None

    def check(self) -> None:
        """Raises :class:`PlanError` for thresholds that can't be."""
        wanted = self.ndcg_at_10.drop if isinstance(self.ndcg_at_10, Within) else self.ndcg_at_10
        for name, value in (("ndcg_at_10", wanted), ("overlap_at_10", self.overlap_at_10)):
            if value is not None and not 0 <= value <= 1:
                raise PlanError(f"gate: {name} {value} is not between 0 and 1")
        for name, count in (("shadow_samples", self.shadow_samples), ("shadow_p95_ms", self.shadow_p95_ms)):
            if count is not None and count <= 0:
                raise PlanError(f"gate: {name} {count} is not above 0")
        try:
            _ = self.soak_seconds, self.earliest
        except ConfigError as error:
            raise PlanError(f"gate: soak {error.message}", hint=error.hint) from error


NO_THRESHOLDS = Evidence()


def moment(text: str) -> datetime:
    """An ISO date or time; UTC where it names no zone. Raises :class:`PlanError`."""
    try:
        found = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        raise PlanError(
            f"gate: not_before {text!r} is not a date", hint='write "2026-12-01" or "2026-12-01T08:00+01:00"'
        ) from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)

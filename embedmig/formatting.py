"""Figures for people: one form for durations, sizes and shares in every message and table."""

from __future__ import annotations

from collections.abc import Sequence


def duration(seconds: float) -> str:
    """``14 ms``, ``4.2 s``, ``3 min 20 s``, ``1 h 05 min``, ``3.5 days``."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    if seconds < 3599.5:
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes} min {rest:02} s"
    if seconds < 172_800:
        hours, minutes = divmod(round(seconds / 60), 60)
        return f"{hours} h {minutes:02} min"
    return f"{seconds / 86_400:,.1f} days"


def plural(count: int, one: str, many: str | None = None) -> str:
    """``1 row``, ``1,234 rows``; ``many`` where the plural is not made by an s."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def size(count: float | None) -> str:
    """Bytes: ``32.2 MB``; ``?`` where they are unknown."""
    if count is None:
        return "?"
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def percent(share: float) -> str:
    """``99.9 %``, rounded down: 100 % means every row."""
    return f"{int(share * 1000) / 10:.1f} %"


def short_tags(tags: Sequence[str]) -> dict[str, str]:
    """Each version's tag without what all of them share; the model stays, and two never get one name."""
    parts, shared = {tag: tag.split("/") for tag in tags}, set(left_out(tags))
    short = {tag: "/".join([one[0], *(part for part in one[1:] if part not in shared)]) for tag, one in parts.items()}
    return short if len(set(short.values())) == len(short) else {tag: tag for tag in tags}


def left_out(tags: Sequence[str]) -> list[str]:
    """The parts that all these tags have, but for the model: what their short names leave out, in the order of the tag."""
    rest = [tag.split("/")[1:] for tag in tags]
    return [part for part in (rest[0] if rest else []) if all(part in one for one in rest)]


def usd(amount: float | None) -> str:
    """Dollars; as many digits as a small sum needs, and never 0 for what is unknown."""
    if amount is None:
        return "cost unknown"
    return f"${amount:,.2f}" if amount == 0 or amount >= 0.01 else f"${amount:.2g}"

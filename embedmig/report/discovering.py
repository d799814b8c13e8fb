"""What ``init`` found in a database, for people."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from embedmig.commands.init import BY_DIMENSIONS, FoundVectors
from embedmig.formatting import plural


def found_page(found: Sequence[FoundVectors]) -> Text:
    """Each column of vectors in a few lines."""
    return Text("\n".join(line for one in found for line in _lines(one)) or "no column of vectors is in this database")


def _lines(one: FoundVectors) -> list[str]:
    length = f", {one.dimensions} dimensions" if one.dimensions else ""
    made = f", made by {one.made_by}" if one.made_by else ""
    first = f"{one.place}: {plural(one.rows, 'row')}{length}{made}"
    if one.problem:
        return [first, f"  not proposed: {one.problem}"]
    return [
        first,
        f"  [collections.{one.collection}]  key {', '.join(one.key)}; text {', '.join(one.text)}; alias {one.alias}",
        *([f"  where {one.where}"] if one.where else []),
    ]


def who_made(one: FoundVectors) -> str:
    """What to find out about vectors whose model nobody named."""
    guess = BY_DIMENSIONS.get(one.dimensions or 0)
    often = f" ({one.dimensions} dimensions: often {guess})" if guess else ""
    return f"nothing says which model made {one.place}{often}"

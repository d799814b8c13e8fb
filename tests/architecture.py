"""Draws docs/architecture.svg from the imports: ``python -m tests.architecture`` (``make docs-picture``).

Packages are boxes; an arrow leads from a package to one that it imports. An import that already follows from two others
is left out, and so is every import of :data:`EVERYWHERE`. A package stands one row above the highest one it imports.
Arrows that pass a row have a place of their own in it; rows are ordered so that arrows cross little (Sugiyama, Tagawa
and Toda 1981, by means of neighbours).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from statistics import fmean

from tests.unit.test_layers import ROOMS, imports, modules

PICTURE = Path(__file__).resolve().parent.parent / "docs" / "architecture.svg"
EVERYWHERE = ROOMS[: ROOMS.index("config")]
BOX, HEIGHT, GAP, ROW, LANE, MARGIN = 112, 32, 22, 66, 14, 16  # px; LANE: the width of an arrow's place in a row
Graph = Mapping[str, frozenset[str]]
Place = tuple[str, ...]
"""``(package,)`` for a box; ``(importer, imported, row)`` where an arrow passes a row."""

STYLE = """
  text { font: 14px system-ui, sans-serif; fill: #1f2328; text-anchor: middle }
  rect { fill: #eaf2fb; stroke: #4477aa }
  rect.base { fill: #f3f4f6; stroke: #8b949e }
  path { fill: none; stroke: #6e7781; stroke-width: 1.25 }
  path.head { fill: #6e7781; stroke: none }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } rect { fill: #16283d; stroke: #6699cc } rect.base { fill: #21262d }
    path { stroke: #9198a1 } path.head { fill: #9198a1 }
  }
"""


def imported() -> Graph:
    """Each package with the packages that it imports, those of :data:`EVERYWHERE` left out."""
    graph: dict[str, set[str]] = {room: set() for room in ROOMS if room not in EVERYWHERE}
    for room, path in modules():
        names = {name.split(".")[1] for name in imports(path) if name.startswith("embedmig.")}
        if room in graph:
            graph[room] |= (names & graph.keys()) - {room}
    return {room: frozenset(names) for room, names in graph.items()}


def reached(graph: Graph, room: str) -> frozenset[str]:
    """Everything that a package imports, directly or through others."""
    return graph[room].union(*(reached(graph, other) for other in graph[room]))


def direct(graph: Graph) -> Graph:
    """The graph without the imports that follow from others."""
    return {
        room: found - frozenset().union(*(reached(graph, other) for other in found)) for room, found in graph.items()
    }


def levels(graph: Graph) -> dict[str, int]:
    """The row of each package, counted from the bottom."""
    found: dict[str, int] = {}
    for room in ROOMS:  # each comes after all that it imports
        if room in graph:
            found[room] = max((found[other] + 1 for other in graph[room]), default=0)
    return found


def arrows(graph: Graph, level: Mapping[str, int]) -> list[list[Place]]:
    """Every arrow as the places that it passes, from the importer down."""
    return [
        [(room,), *((room, other, str(row)) for row in range(level[room] - 1, level[other], -1)), (other,)]
        for room in graph for other in sorted(graph[room], key=ROOMS.index)
    ]  # fmt: skip


def width(place: Place) -> int:
    return BOX if len(place) == 1 else LANE


def spread(row: list[Place]) -> dict[Place, float]:
    """The middle of each place, with the row centred on 0."""
    x = -(sum(map(width, row)) + GAP * (len(row) - 1)) / 2
    middles = {}
    for place in row:
        middles[place] = x + width(place) / 2
        x += width(place) + GAP
    return middles


def arranged(graph: Graph, level: Mapping[str, int], ways: list[list[Place]]) -> dict[Place, tuple[float, int]]:
    """Every place with the x of its middle and its row."""
    rows: list[list[Place]] = [[] for _ in range(max(level.values()) + 1)]
    for room in graph:
        rows[level[room]].append((room,))
    for way in ways:
        for place in way[1:-1]:
            rows[int(place[2])].append(place)
    below: dict[Place, list[Place]] = {place: [] for row in rows for place in row}
    above: dict[Place, list[Place]] = {place: [] for row in rows for place in row}
    for way in ways:
        for upper, lower in pairwise(way):
            below[upper].append(lower)
            above[lower].append(upper)
    x = {place: middle for row in rows for place, middle in spread(row).items()}

    def mean_of(neighbours: Mapping[Place, list[Place]]) -> Callable[[Place], float]:
        return lambda place: fmean(x[one] for one in neighbours[place]) if neighbours[place] else x[place]

    for _ in range(12):
        for neighbours, order in ((below, rows), (above, rows[::-1])):
            for row in order:
                row.sort(key=mean_of(neighbours))
                x |= spread(row)
    return {place: (x[place], number) for number, row in enumerate(rows) for place in row}


def drawn(graph: Graph) -> str:
    """The picture as SVG text."""
    level = levels(graph)
    ways = arrows(direct(graph), level)
    places = arranged(graph, level, ways)
    left = min(x - width(place) / 2 for place, (x, _) in places.items()) - MARGIN
    wide = max(x + width(place) / 2 for place, (x, _) in places.items()) + MARGIN - left
    top = max(level.values())
    tall = (top + 1) * ROW + HEIGHT + 2 * MARGIN

    def at(place: Place) -> tuple[float, float]:
        x, row = places[place]
        return x - left, MARGIN + (top - row) * ROW

    body = [line for way in ways for line in arrow([at(place) for place in way])]
    body += [line for place in places if len(place) == 1 for line in box(place[0], *at(place))]
    body += box(", ".join(EVERYWHERE) + ": used by all", wide / 2, MARGIN + (top + 1) * ROW, wide - 2 * MARGIN, "base")
    size = f'viewBox="0 0 {wide:.0f} {tall}" width="{wide:.0f}" height="{tall}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>\n<style>{STYLE}</style>\n' + "\n".join(body) + "\n</svg>\n"


def box(text: str, x: float, y: float, wide: float = BOX, kind: str = "package") -> list[str]:
    return [
        f'<rect class="{kind}" x="{x - wide / 2:.1f}" y="{y}" width="{wide:.1f}" height="{HEIGHT}" rx="6"/>',
        f'<text x="{x:.1f}" y="{y + HEIGHT / 2 + 5:.1f}">{text}</text>',
    ]


def arrow(points: list[tuple[float, float]]) -> Iterable[str]:
    """A curve through the points, straight down through each row that it passes, and its head."""
    (x, y), *rest = points
    line = f"M{x:.1f} {y + HEIGHT:.1f}"
    for number, (next_x, next_y) in enumerate(rest, 1):
        start, end = y + HEIGHT, next_y - (7 if number == len(rest) else 0)
        middle = (start + end) / 2
        line += f" C{x:.1f} {middle:.1f} {next_x:.1f} {middle:.1f} {next_x:.1f} {end:.1f}"
        if number < len(rest):
            line += f" V{next_y + HEIGHT:.1f}"
        x, y = next_x, next_y
    return [f'<path d="{line}"/>', f'<path class="head" d="M{x:.1f} {y} l-4 -8 h8 z"/>']


if __name__ == "__main__":
    PICTURE.write_text(drawn(imported()))

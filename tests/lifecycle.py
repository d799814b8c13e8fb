"""Draws docs/states.svg from the tables of states: ``python -m tests.lifecycle`` (``make docs-picture``).

One line of states for revisions, for spaces that embedmig made, and for adopted ones, in the order in which the table names
them. What leads on is an arc above the line, what leads back one below it: the further, the higher. So no two labels meet.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from embedmig.revisions import states
from tests.architecture import HEIGHT, MARGIN, box

PICTURE = Path(__file__).resolve().parent.parent / "docs" / "states.svg"
BOX, STEP, ARC, SHORT, LINE, LETTERS = 136, 200, 84, 34, 14, 25  # px, and letters in a line of a label
Moves = Mapping[tuple[str, str], Sequence[str]]
"""What leads from a state to another, one or several."""
FIRST = ("pending", "not there")


class Way(NamedTuple):
    """One arc: over how many states it leads, backwards if below 0, and the lines of its label."""

    before: str
    after: str
    steps: int
    label: list[str]


STYLE = """
  text { font: 14px system-ui, sans-serif; fill: #1f2328; text-anchor: middle }
  text.label { font-size: 12px; fill: #57606a; stroke: #ffffff; stroke-width: 4px; paint-order: stroke }
  text.title { font-weight: 600; text-anchor: start }
  rect { fill: #eaf2fb; stroke: #4477aa }
  rect.base { fill: #f3f4f6; stroke: #8b949e }
  path { fill: none; stroke: #6e7781; stroke-width: 1.25 }
  path.head { fill: #6e7781; stroke: none }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } text.label { fill: #9198a1; stroke: #0d1117 } rect { fill: #16283d; stroke: #6699cc } rect.base { fill: #21262d }
    path { stroke: #9198a1 } path.head { fill: #9198a1 }
  }
"""


def tables() -> dict[str, Moves]:
    """The three tables, by their titles."""
    revisions: dict[tuple[str, str], list[str]] = {}
    for (before, event), following in states.REVISIONS.items():
        revisions.setdefault((before, following), []).append(states.EVENTS[event])
    found: dict[str, Moves] = {"A revision": revisions}
    for title, moves in (("A version that embedmig made", states.SPACES), ("An adopted version", states.ADOPTED)):
        found[title] = {(before or "not there", following): [what] for (before, following), what in moves.items()}
    return found


def drawn(found: Mapping[str, Moves]) -> str:
    """The picture as SVG text. What leaves a state as it is has no arc."""
    body, top, wide = [], MARGIN, 0
    for title, moves in found.items():
        order = list(dict.fromkeys(state for move in moves for state in move))
        ways = [Way(before, after, order.index(after) - order.index(before), lines_of(labels))
                for (before, after), labels in moves.items() if before != after]  # fmt: skip
        heights, (above, below) = levels(ways), (room(ways, sign) for sign in (1, -1))
        x = {state: MARGIN + BOX / 2 + STEP * place for place, state in enumerate(order)}
        line = top + 2 * LINE + above
        body.append(f'<text class="title" x="{MARGIN}" y="{top + LINE}">{title}</text>')
        for way in ways:
            body += arc(x[way.before], x[way.after], line, heights[way.steps], way)
        for state in order:
            body += box(states.in_words(state), x[state], line, BOX, "base" if state in FIRST else "state")
        body.sort(key=lambda one: "label" in one)  # over the arcs
        top = line + HEIGHT + below + 2 * LINE
        wide = max(wide, MARGIN * 2 + BOX + STEP * (len(order) - 1))
    size = f'viewBox="0 0 {wide} {top:.0f}" width="{wide}" height="{top:.0f}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>\n<style>{STYLE}</style>\n' + "\n".join(body) + "\n</svg>\n"


def levels(ways: Sequence[Way]) -> dict[int, int]:
    """How far from the line an arc's middle is, by its steps: a longer one is further than all that are shorter."""
    found = {}
    for sign in (1, -1):
        for place, steps in enumerate(sorted({abs(way.steps) for way in ways if way.steps * sign > 0})):
            found[steps * sign] = ARC * place + SHORT
    return found


def room(ways: Sequence[Way], sign: int) -> int:
    """What the arcs on one side take, labels included."""
    heights = levels(ways)
    return max((heights[way.steps] + LINE * len(way.label) + 4 for way in ways if way.steps * sign > 0), default=0)


def lines_of(labels: Sequence[str]) -> list[str]:
    """A label as it is broken into lines."""
    whole = [f"{label};" for label in labels[:-1]] + [labels[-1]]
    return [line for label in whole for line in textwrap.wrap(label, LETTERS)]


def arc(start: float, end: float, line: float, far: int, way: Way) -> Iterator[str]:
    """A curve, its head and its label. What leaves a box and what arrives there don't meet."""
    sign = 1 if way.steps > 0 else -1
    edge = line if sign > 0 else line + HEIGHT
    first, last = start + 14 * sign, end - 14 * sign
    middle, apex, tip = (first + last) / 2, edge - sign * far, edge - sign * 7
    control = edge - sign * far * 4 / 3  # of a cubic, whose middle then lies at the apex
    yield f'<path d="M{first:.1f} {edge:.1f} C{first:.1f} {control:.1f} {last:.1f} {control:.1f} {last:.1f} {tip:.1f}"/>'
    yield f'<path class="head" d="M{last:.1f} {edge:.1f} l-4 {-8 * sign} h8 z"/>'
    base = apex - 5 - LINE * (len(way.label) - 1) if sign > 0 else apex + LINE
    for number, said in enumerate(way.label):
        yield f'<text class="label" x="{middle:.1f}" y="{base + LINE * number:.1f}">{said}</text>'


if __name__ == "__main__":
    PICTURE.write_text(drawn(tables()))

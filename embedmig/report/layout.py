"""Tables that fit the console. The column that names a row is never cut, and never squeezed by its neighbours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from embedmig.formatting import left_out, short_tags

GAP = 2
NARROW = 18  # cells that a column of prose takes at least, where it has so many
CUT = 12, 80  # the fewest and the most cells of a user's own text


@dataclass(slots=True)
class Rows:
    """Rows of figures. ``names`` are the columns that say which row it is, ``tags`` the one of them that has versions' tags.

    ``right`` are numbers, ``prose`` may run over several lines, ``cut`` are texts of the user, shortened to what is left,
    ``bare`` need no heading to be understood.
    Columns stand beside each other where the console is wide enough for them, tags without what they share if that helps; else
    each row has its name on a line of its own and its figures below.
    """

    columns: Sequence[str]
    names: Sequence[str]
    tags: str = ""
    right: Sequence[str] = ()
    prose: Sequence[str] = ()
    cut: Sequence[str] = ()
    bare: Sequence[str] = ()
    rows: list[list[Text]] = field(default_factory=list)

    def add(self, *cells: str | Text) -> None:
        """A row; cells that are left out are empty."""
        padded = [*cells, *[""] * (len(self.columns) - len(cells))]
        self.rows.append([cell if isinstance(cell, Text) else Text(cell) for cell in padded])

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width
        rows = self.rows
        if self._width(rows) > width and self.tags:
            rows = self._shortened()
        if self._width(rows) > width:
            yield from self._below_each_other(rows)
        else:
            yield self._table(rows, width)
        shared = left_out(self._all_tags()) if rows is not self.rows else []
        if shared:
            yield Text(f"in every tag: {', '.join(shared)}", style="dim")

    def _all_tags(self) -> list[str]:
        place = self.columns.index(self.tags)
        return [row[place].plain for row in self.rows]

    def _shortened(self) -> list[list[Text]]:
        place = self.columns.index(self.tags)
        short = short_tags(self._all_tags())
        return [[*row[:place], Text(short[row[place].plain]), *row[place + 1 :]] for row in self.rows]

    def _widths(self, rows: list[list[Text]]) -> list[int]:
        """The least that each column needs."""
        found = []
        for place, column in enumerate(self.columns):
            cells = max((cell_len(line) for row in rows for line in row[place].plain.split("\n")), default=0)
            least = NARROW if column in self.prose else CUT[0] if column in self.cut else cells
            found.append(max(cell_len(column), min(cells, least)))
        return found

    def _width(self, rows: list[list[Text]]) -> int:
        return sum(self._widths(rows)) + GAP * (len(self.columns) - 1)

    def _table(self, rows: list[list[Text]], width: int) -> Table:
        table = Table(box=None, padding=(0, GAP, 0, 0), pad_edge=False, header_style="dim")
        most = CUT[0]
        if self.cut:
            most = min(CUT[1], CUT[0] + (min(width, 200) - self._width(rows)) // len(self.cut))
        for column, least in zip(self.columns, self._widths(rows), strict=True):
            wraps = column in self.prose
            table.add_column(
                Text(column), justify="right" if column in self.right else "left", overflow="ellipsis" if column in self.cut else "fold",
                no_wrap=not wraps, min_width=least, max_width=max(most, least) if column in self.cut else None,
            )  # fmt: skip
        for row in rows:
            table.add_row(*row)
        return table

    def _below_each_other(self, rows: list[list[Text]]) -> Iterator[Text | Padding]:
        names = [self.columns.index(name) for name in self.names]
        for row in rows:
            yield Text("  ").join(row[place] for place in names if row[place])
            figures = [
                Text.assemble((f"{column} ", "dim") if column not in self.bare else "", cell)
                for place, (column, cell) in enumerate(zip(self.columns, row, strict=True))
                if place not in names and cell
            ]
            if figures:
                yield Padding(Text(" · ").join(figures), (0, 0, 0, 2))


@dataclass(frozen=True, slots=True)
class Line:
    """A line that may have versions' tags in it: their short names stand there where it would not fit otherwise."""

    text: Text
    tags: Sequence[str]

    def __rich_console__(self, _console: Console, options: ConsoleOptions) -> RenderResult:
        shown = self.text
        if shown.cell_len > options.max_width:
            for tag, short in short_tags(self.tags).items():
                shown = Text(short).join(shown.split(tag, allow_blank=True))
        yield shown

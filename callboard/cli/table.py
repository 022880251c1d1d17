"""Rows under headings, as wide as the terminal; where that is too narrow, each row on lines of its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from callboard.cli.terminal import plain

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions
    from rich.text import Text

_GAP = 2  # between two columns
_LEAST = 12  # characters that text is left to be folded in
_APART = "   "  # between the facts of a row that has lines of its own
_INDENT = "  "


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    right: Sequence[str] = (),
    whole: Sequence[str] = (),
) -> Rows:
    """A table whose cells are plain text; the columns named in `right` are numbers, those in `whole` are to be copied.

    Neither is ever folded. Without a word in `columns` there are no headings.
    """
    cells = [[_cell(cell) for cell in row] for row in rows]
    return Rows(columns, cells, frozenset(right), frozenset(whole))


class Rows:
    """What rich prints: a table where all fits, else blocks."""

    def __init__(
        self, columns: Sequence[str], rows: list[list[Text]], right: frozenset[str], whole: frozenset[str]
    ) -> None:
        self._columns = columns
        self._rows = rows
        self._right = right
        self._whole = whole

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Any]:
        if self._least_width() <= options.max_width:
            yield self._table()
        else:
            for row in self._rows:
                yield from self._block(row, options.max_width)

    def _least_width(self) -> int:
        width = _GAP * (len(self._columns) - 1)
        for number, name in enumerate(self._columns):
            heading = max(len(line) for line in name.split("\n"))
            longest = max([heading, *(row[number].cell_len for row in self._rows)])
            width += longest if self._is_fixed(name) else min(longest, max(_LEAST, heading))
        return width

    def _is_fixed(self, column: str) -> bool:
        return column in self._right or column in self._whole

    def _table(self) -> Any:
        from rich import box
        from rich.table import Table

        made = Table(
            box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, collapse_padding=True,
            show_header=any(self._columns),
        )  # fmt: skip
        for name in self._columns:
            made.add_column(
                name,
                justify="right" if name in self._right else "left",
                no_wrap=self._is_fixed(name),
                overflow="fold",
                header_style="bold",
            )
        for row in self._rows:
            made.add_row(*row)
        return made

    def _block(self, row: list[Text], width: int) -> Iterator[Text]:
        """What names the row stands first; the rest follows with its headings, each fact on one line if it fits there."""
        line = plain("")
        for number, (name, cell) in enumerate(zip(self._columns, row, strict=True)):
            if not cell.plain:
                continue
            heading = name.replace("-\n", "").replace("\n", " ")
            names_it = number == 0 and name in self._whole
            fact = plain(cell.plain, "bold") if names_it else plain(f"{heading} ", "dim").append_text(cell)
            if name in self._whole and len(_INDENT) + fact.cell_len > width:
                fact = cell.copy()  # rather without its heading than in two pieces
            if line.plain.strip() and line.cell_len + len(_APART) + fact.cell_len > width:
                yield _folded(line)
                line = plain(_INDENT)
            elif line.plain.strip():
                line.append(_APART)
            line.append_text(fact)
        yield _folded(line)


def _cell(value: object) -> Text:
    from rich.text import Text

    return value if isinstance(value, Text) else plain(value)


def _folded(line: Text) -> Text:
    line.overflow = "fold"
    return line


class Beside:
    """A line whose words stay right of its head when they are folded, unless one of them needs the whole width."""

    def __init__(self, head: Text, body: Text) -> None:
        self._head = head
        self._body = body

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Any]:
        from rich.cells import cell_len
        from rich.table import Table

        longest = max((cell_len(word) for word in self._body.plain.split()), default=0)
        if self._head.cell_len + longest > options.max_width:
            yield self._head.copy().append_text(self._body)
            return
        made = Table.grid()
        made.add_column(no_wrap=True)
        made.add_column(overflow="fold")
        made.add_row(self._head, self._body)
        yield made

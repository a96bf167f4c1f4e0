"""Tables that become paragraphs where their columns have no room, so that no number is ever cut."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

LEAST = 28  # what a column of words needs, where a word is longer


class FoldingTable(Table):
    """A table; a paragraph a row, headed by the first cell, where the page is too narrow for the columns."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """What rich prints."""
        heads = [str(column.header) for column in self.columns]
        cells = [[str(cell) for cell in column.cells] for column in self.columns]
        if self._needed(heads, cells) <= options.max_width:
            yield from super().__rich_console__(console, options)
            return
        mark = not heads[0] and max(map(cell_len, cells[0]), default=0) <= 1  # a column of stars
        for row, texts in zip(self.rows, zip(*cells, strict=True), strict=True):
            title = f"{texts[0] or ' '} {texts[1]}" if mark else texts[0]
            yield Text(f"{heads[0]} {title}" if title.isdecimal() else title, row.style or "bold", overflow="fold")
            pairs = list(zip(heads, texts, strict=True))[2 if mark else 1 :]
            parts = [" ".join(filter(None, pair)) for pair in pairs if pair[1]]
            for line in _packed(parts, options.max_width - 2):
                yield Padding(Text(line, style=row.style or "", overflow="fold"), (0, 0, 0, 2))

    def _needed(self, heads: list[str], cells: list[list[str]]) -> int:
        """The columns that no number and no word of usual length would be cut in."""
        least = [2 * len(self.columns) - 1]  # what stands between them
        for column, texts in zip(self.columns, zip(heads, cells, strict=True), strict=True):
            every = [texts[0], *texts[1]]
            words = every if column.no_wrap else [word for text in every for word in text.split()]
            least.append(min(max(map(cell_len, words), default=0), 10**6 if column.no_wrap else LEAST))
        return sum(least)


def _packed(parts: Iterable[str], width: int) -> Iterator[str]:
    """Parts in lines, a comma between them, none broken that has room in a line."""
    line = ""
    for part in parts:
        longer = f"{line}, {part}" if line else part
        if line and cell_len(longer) > width - 1:
            yield f"{line},"
            line = part
        else:
            line = longer
    if line:
        yield line

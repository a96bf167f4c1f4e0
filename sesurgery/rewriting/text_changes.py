"""Insertions into a text and deletions from it, all meant for the text as it was, so that their order is free."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from sesurgery.errors import Unfit
from sesurgery.rewriting.author_source import Span

_LINE = float("inf")  # a statement of its own lies outside every expression


@dataclass(frozen=True, order=True)
class _Insertion:
    """Text to be put at a byte. The fields before it sort the insertions at one byte from left to right."""

    at: int
    side: int  # 0 closes what ends here, 1 opens what begins here, 2 stands for what is deleted from here
    size: float  # of two expressions that begin together the outer is opened first, and closed last
    order: int
    text: bytes = dataclasses.field(compare=False)


@dataclass
class TextChanges:
    """A method's text, whole lines of a file from number ``line`` on, and the changes to it so far."""

    text: str
    line: int
    _insertions: list[_Insertion] = field(default_factory=list)
    _deletions: list[tuple[int, int]] = field(default_factory=list)
    _replaced: set[tuple[int, int]] = field(default_factory=set)
    _changed: list[tuple[int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.bytes = self.text.encode()
        self._starts = [0]
        for line in self.bytes.split(b"\n"):
            self._starts.append(self._starts[-1] + len(line) + 1)

    def range(self, span: Span) -> tuple[int, int]:
        """The first byte of ``span``, and the one behind its last."""
        return (
            self._starts[span.line - self.line] + span.column,
            self._starts[span.end_line - self.line] + span.end_column,
        )

    def around(self, span: Span, before: str, after: str) -> None:
        """Put ``before`` and ``after`` around an expression."""
        start, end = self.range(span)
        self._changed.append((start, end))
        self._insert(start, " " * _is_word(self.bytes[start - 1 : start]) + before, 1, end - start)
        self._insert(end, after, 0, end - start)

    def replace(self, span: Span, text: str) -> None:
        """Put ``text`` in the place of an expression."""
        start, end = self.range(span)
        self._deletions.append((start, end))
        self._replaced.add((start, end))
        glued = _is_word(self.bytes[start - 1 : start]), _is_word(self.bytes[end : end + 1])
        self._insert(start, " " * glued[0] + text + " " * glued[1], 2, 0)

    def keep(self, span: Span, part: Span, parentheses: bool) -> None:
        """Delete ``span`` but for ``part`` of it."""
        (start, end), (first, last) = self.range(span), self.range(part)
        self._deletions += [piece for piece in ((start, first), (last, end)) if piece[0] < piece[1]]
        glued = _is_word(self.bytes[start - 1 : start]) or _is_word(self.bytes[end : end + 1])
        if parentheses or glued:
            self._insert(start, "(", 2, 0)
            self._insert(end, ")", 0, 0)

    def line_before(self, span: Span, text: str) -> None:
        """A statement before the one at ``span``, on a line of its own where that begins one."""
        at = self.range(span)[0]
        indent = self.indent(at)
        self._insert(at, f"{text}; " if indent is None else f"{text}\n{indent}", 1, _LINE)

    def line_behind(self, span: Span, text: str) -> None:
        """A statement behind the simple one at ``span``, on a line of its own where that has one."""
        start, end = self.range(span)
        self._changed.append((start, end))
        indent = self.indent(start)
        if indent is not None and self.ends_line(end):
            self._insert(self.bytes.index(b"\n", end), f"\n{indent}{text}", 0, _LINE)
        else:
            self._insert(end, f"; {text}", 0, _LINE)

    def delete_statement(self, span: Span, needed: bool) -> None:
        """Take the simple statement at ``span`` away, its line too; ``needed``: something must stand there."""
        start, end = self.range(span)
        if not needed and self.indent(start) is not None and self.ends_line(end):
            self._deletions.append((self.bytes.rfind(b"\n", 0, start) + 1, self.bytes.index(b"\n", end) + 1))
        else:
            self._deletions.append((start, end))
            self._insert(start, "pass", 2, 0)

    def indent(self, at: int) -> str | None:
        """The white space before a byte that begins a line; None where something else stands before it."""
        before = self.bytes[self.bytes.rfind(b"\n", 0, at) + 1 : at]
        return None if before.strip() else before.decode()

    def ends_line(self, at: int) -> bool:
        """Whether nothing follows on the line, or a comment."""
        rest = self.bytes[at : self.bytes.index(b"\n", at)].strip()
        return not rest or rest.startswith(b"#")

    def _insert(self, at: int, text: str, side: int, size: float) -> None:
        order = len(self._insertions)
        if side == 1:
            size, order = -size, order if size == _LINE else -order
        self._insertions.append(_Insertion(at, side, size, order, text.encode()))

    def result(self) -> str:
        """The changed text.

        Raises:
            Unfit: what one change deletes another one changes.
        """
        pieces = list[bytes]()
        insertions = sorted(self._insertions)
        at = 0
        for first, last in [*sorted(self._deletions), (len(self.bytes), len(self.bytes))]:
            gone = [each for each in self._changed if first <= each[0] and each[1] <= last and first < last]
            lost = any(each != (first, last) or each not in self._replaced for each in gone)
            if first < at or lost or (insertions and insertions[0].at < at):
                raise Unfit("one edit removes what another one changes")
            while insertions and insertions[0].at <= first:
                insertion = insertions.pop(0)
                pieces += [self.bytes[at : insertion.at], insertion.text]
                at = insertion.at
            pieces.append(self.bytes[at:first])
            at = last
        return b"".join(pieces).decode()


def _is_word(byte: bytes) -> bool:
    """Whether a byte belongs to a name, a number or a keyword."""
    return byte.isalnum() or byte == b"_" or byte >= b"\x80"

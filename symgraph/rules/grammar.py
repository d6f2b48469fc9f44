"""What the three small grammars of a rule share: a tokenizer and an error that knows its column."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from symgraph.errors import RuleError

MAX_TEXT = 2000


class GrammarError(RuleError):
    """A text of a rule does not parse; `column` counts from 0 within that text."""

    def __init__(self, what: str, column: int = 0, *, remedy: str = "") -> None:
        self.column = column
        super().__init__(what, remedy=remedy)


@dataclass(frozen=True, slots=True)
class Token:
    """A word of a rule's text and where it begins."""

    text: str
    column: int


def tokenize(text: str, pattern: re.Pattern[str]) -> tuple[Token, ...]:
    """Splits `text` into tokens of `pattern`, skipping white space.

    Raises:
        GrammarError: on a character that begins no token, or a text that is too long.
    """
    if len(text) > MAX_TEXT:
        raise GrammarError(f"longer than {MAX_TEXT} characters", remedy="split it into two rules")
    tokens, at = [], 0
    while at < len(text):
        if text[at].isspace():
            at += 1
            continue
        token = pattern.match(text, at)
        if token is None:
            raise GrammarError(f"unexpected character {text[at]!r}", at)
        tokens.append(Token(token.group(), at))
        at = token.end()
    return tuple(tokens)


class Cursor:
    """Reads tokens from left to right."""

    def __init__(self, tokens: tuple[Token, ...], end: int) -> None:
        self._tokens, self._at, self._end = tokens, 0, end

    @property
    def text(self) -> str:
        """The next token, or '' at the end."""
        return self._tokens[self._at].text if self._at < len(self._tokens) else ""

    @property
    def column(self) -> int:
        """Column of the next token."""
        return self._tokens[self._at].column if self._at < len(self._tokens) else self._end

    def take(self) -> str:
        """The next token, consumed."""
        text = self.text
        self._at += 1
        return text

    def skip(self, text: str) -> bool:
        """Consumes the next token if it is `text`."""
        if self.text != text or not text:
            return False
        self._at += 1
        return True

    def expect(self, text: str) -> None:
        """Consumes `text`.

        Raises:
            GrammarError: if something else comes next.
        """
        if not self.skip(text):
            raise GrammarError(f"expected {text!r}, found {self.text or 'the end'!r}", self.column)

    def many(self, item: Callable[[], None], separator: str, close: str) -> None:
        """Items with a separator between them, up to and including `close`."""
        if self.skip(close):
            return
        while True:
            item()
            if not self.skip(separator):
                break
        self.expect(close)

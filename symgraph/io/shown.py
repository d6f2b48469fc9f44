"""How results are shown: the same short text by `print`, at the prompt, and in a notebook."""

from __future__ import annotations

from html import escape


class Shown:
    """What says in `str` what it is, and says the same wherever it is shown."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"

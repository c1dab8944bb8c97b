"""Collects what is wrong, or merely odd, in one policy file."""

import re
from typing import Protocol

from ratelimitd.errors import Finding

QUOTED_CHARACTERS = 60
"""Of a text from a file, so much is repeated in a message: a line stays a line."""


_NAME = re.compile(r"[\w-]{1,60}", re.ASCII)


class Positioned(Protocol):
    """Anything that stands somewhere in a file."""

    @property
    def line(self) -> int:
        """The line, from 1; 0 for the file as a whole."""
        ...

    @property
    def column(self) -> int:
        """The column, from 1; 0 for the file as a whole."""
        ...


class Report:
    """The errors and warnings of one file; the first finding at a place and path stands."""

    def __init__(self, file: str) -> None:
        self.file = file
        self._errors: dict[tuple[int, int, str], Finding] = {}
        self._warnings: dict[tuple[int, int, str], Finding] = {}

    @property
    def has_errors(self) -> bool:
        """Whether the file cannot be used."""
        return bool(self._errors)

    @property
    def errors(self) -> list[Finding]:
        """All errors, from the top of the file to its end."""
        return [self._errors[place] for place in sorted(self._errors)]

    @property
    def warnings(self) -> list[Finding]:
        """All warnings, from the top of the file to its end."""
        return [self._warnings[place] for place in sorted(self._warnings)]

    def error(self, at: Positioned | None, path: str, message: str) -> None:
        """Note an error `at` a place, or in the file as a whole."""
        self._note(self._errors, at, path, message)

    def warn(self, at: Positioned, path: str, message: str) -> None:
        """Note something that works, and probably not as it was meant."""
        self._note(self._warnings, at, path, message)

    def _note(
        self,
        findings: dict[tuple[int, int, str], Finding],
        at: Positioned | None,
        path: str,
        message: str,
    ) -> None:
        line, column = (at.line, at.column) if at else (0, 0)
        finding = Finding(self.file, line, column, path, message)
        findings.setdefault((line, column, path), finding)


def quote(text: str) -> str:
    """Return `text` between backquotes on one line, shortened if it is long."""
    shown = text if len(text) <= QUOTED_CHARACTERS else text[: QUOTED_CHARACTERS - 3] + "..."
    return "`" + "".join(c if c.isprintable() else ascii(c)[1:-1] for c in shown) + "`"


def join_path(path: str, key: str) -> str:
    """Return `path.key`; either may be empty, and an odd key is quoted."""
    shown = key if _NAME.fullmatch(key) or not key else quote(key)
    return f"{path}.{shown}" if path and shown else path or shown


def one_of(names: list[str]) -> str:
    """Return `a, b or c`."""
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " or " + names[-1]

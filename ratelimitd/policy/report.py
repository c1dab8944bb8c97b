"""Collects what is wrong, or merely odd, in one policy file."""

import re
from dataclasses import dataclass, field
from typing import Protocol

from ratelimitd.errors import Finding

QUOTED_CHARACTERS = 60
"""Of a text from a file, so much is repeated in a message: a line stays a line."""

MAX_FINDINGS = 100
"""Errors of one file, and warnings; a file with more has one cause, and the rest are counted."""

MAX_SUGGESTIONS = 20
"""Likely names that are looked up for one file: each is compared with every known one."""

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
    """The errors and warnings of one file; the first finding at a place and path stands.

    The first MAX_FINDINGS of each are kept as they come, and the others counted.
    """

    def __init__(self, file: str) -> None:
        self.file = file
        self._errors = _Findings()
        self._warnings = _Findings()
        self._suggestions = 0

    @property
    def has_errors(self) -> bool:
        """Whether the file cannot be used."""
        return bool(self._errors.kept)

    @property
    def error_count(self) -> int:
        """How many errors were noted so far."""
        return len(self._errors.kept) + self._errors.more

    @property
    def errors(self) -> list[Finding]:
        """The errors, from the top of the file to its end, and how many more there are."""
        return self._all(self._errors, "errors")

    @property
    def warnings(self) -> list[Finding]:
        """The warnings, from the top of the file to its end, and how many more there are."""
        return self._all(self._warnings, "warnings")

    def may_suggest(self) -> bool:
        """Count a name that is to be suggested; False once there were MAX_SUGGESTIONS."""
        self._suggestions += 1
        return self._suggestions <= MAX_SUGGESTIONS

    def error(self, at: Positioned | None, path: str, message: str) -> None:
        """Note an error `at` a place, or in the file as a whole."""
        self._note(self._errors, at, path, message)

    def warn(self, at: Positioned, path: str, message: str) -> None:
        """Note something that works, and probably not as it was meant."""
        self._note(self._warnings, at, path, message)

    def _note(self, findings: "_Findings", at: Positioned | None, path: str, message: str) -> None:
        line, column = (at.line, at.column) if at else (0, 0)
        place = (line, column, path)
        if place in findings.kept:
            return
        if len(findings.kept) < MAX_FINDINGS:
            findings.kept[place] = Finding(self.file, line, column, path, message)
        else:
            findings.more += 1

    def _all(self, findings: "_Findings", noun: str) -> list[Finding]:
        kept = [findings.kept[place] for place in sorted(findings.kept)]
        if findings.more:
            kept.append(Finding(self.file, 0, 0, "", f"and {findings.more:,} more {noun}"))
        return kept


@dataclass(slots=True)
class _Findings:
    """The first ones by place; of the others it is not known whether they share a place."""

    kept: dict[tuple[int, int, str], Finding] = field(default_factory=dict)
    more: int = 0


def quote(text: str, at_most: int = QUOTED_CHARACTERS) -> str:
    """Return `text` between backquotes on one line, shortened if it is long."""
    shown = text if len(text) <= at_most else text[: at_most - 3] + "..."
    return "`" + "".join(c if c.isprintable() else ascii(c)[1:-1] for c in shown) + "`"


def join_path(path: str, key: str) -> str:
    """Return `path.key`; either may be empty, and an odd key is quoted."""
    shown = key if _NAME.fullmatch(key) or not key else quote(key)
    return f"{path}.{shown}" if path and shown else path or shown


def one_of(names: list[str]) -> str:
    """Return `a, b or c`."""
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " or " + names[-1]

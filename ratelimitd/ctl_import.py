"""Import of subjects from a CSV file: all lines are looked at before the first is written.

Rules:
- A file with a wrong line changes nothing, and every wrong line is named.
- Beyond MAX_ROWS a file is several calls. If the store goes away between them, what was written
  stays and is told of; the same file can be imported again, because a record is replaced.
- No value of a line is repeated in a message: it may be a secret.
"""

import csv
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import Final, NamedTuple, TextIO

from ratelimitd import terminal
from ratelimitd._proto.ratelimitd.subject.v1 import subject_pb2
from ratelimitd.ctl_flags import NAME
from ratelimitd.ctl_values import FROM_STDIN, parse_amount, parse_span_s
from ratelimitd.errors import ConfigError, RatelimitError

MAX_ROWS: Final = 1_000
# Below what the daemon reads at once, with room for the rest of a request.
MAX_CALL_BYTES: Final = 900_000
# An import of more is a job for several files.
MAX_LINES: Final = 1_000_000
MAX_NAMED: Final = 100
COLUMNS: Final = ("value", "tier", "limits", "for", "reason")

Send = Callable[[subject_pb2.ImportRequest], subject_pb2.ImportResponse]
Problem = tuple[int, str]


class ImportFailed(RatelimitError):  # noqa: N818 - reads as what happened
    """Nothing was imported, or not all; the message says so, a line for each problem."""


class _Row(NamedTuple):
    """One row, and the line that it ends on."""

    line: int
    row: subject_pb2.ImportRequest.Row


def run(domain: str, file: str, reason: str, send: Send) -> int:
    """Import `file`; returns how many subjects. Raises ConfigError, ImportFailed, CallError."""
    with ExitStack() as stack:
        text = _open(file, stack)
        try:
            rows, problems = _read(text, reason)
        except (csv.Error, UnicodeDecodeError) as error:
            raise ImportFailed(f"{file}: is no CSV in UTF-8: {error}") from error
    calls = list(_calls(rows))
    warnings: dict[str, None] = {}
    for call in calls:
        answer = send(_request(domain, call, validate_only=True))
        problems += [(call[one.row].line, one.message) for one in answer.problems]
        warnings.update(dict.fromkeys(answer.warnings))
    if problems:
        raise ImportFailed("\n".join(_named(file, problems)))
    for warning in warnings:
        terminal.complain("warning", [warning])
    if not rows:
        raise ImportFailed(f"{file}: has no subjects")
    return _write(domain, calls, len(rows), send)


def _write(domain: str, calls: Sequence[Sequence[_Row]], total: int, send: Send) -> int:
    written = 0
    for call in calls:
        try:
            send(_request(domain, call, validate_only=False))
        except RatelimitError as error:
            if not written:
                raise
            raise ImportFailed(
                f"at least {written} of {total} were imported, up to line {call[0].line - 1}: "
                f"{error}\n"
                "import the same file again to go on"
            ) from error
        written += len(call)
        if len(calls) > 1:
            terminal.complain(NAME, [f"{written} of {total}"])
    return written


def _open(file: str, stack: ExitStack) -> TextIO:
    if file == FROM_STDIN:
        return sys.stdin
    try:
        # Spreadsheets begin their files with a mark of the byte order.
        return stack.enter_context(Path(file).open(encoding="utf-8-sig", newline=""))
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}") from error


def _read(text: Iterable[str], reason: str) -> tuple[list[_Row], list[Problem]]:
    """Return the rows of a file, and what is wrong with others."""
    reader = csv.DictReader(text, strict=True)
    unknown = set(reader.fieldnames or ()) - set(COLUMNS)
    if "value" not in (reader.fieldnames or ()) or unknown:
        raise ImportFailed(f"line 1: names the columns: value, and any of {', '.join(COLUMNS[1:])}")
    rows: list[_Row] = []
    problems: list[Problem] = []
    first: dict[str, int] = {}
    for cells in reader:
        line = reader.line_num
        if line > MAX_LINES:
            raise ImportFailed(f"more than {MAX_LINES} lines; make several files of it")
        try:
            row = _to_row(cells, reason)
            before = first.setdefault(row.value, line)
            _check_first(before, line)
        except ConfigError as error:
            problems.append((line, str(error)))
        else:
            rows.append(_Row(line, row))
    return rows, problems


def _to_row(cells: dict[str | None, str | None], reason: str) -> subject_pb2.ImportRequest.Row:
    if None in cells or None in cells.values():
        raise ConfigError("has not as many cells as line 1")
    found = {name: (cells.get(name) or "").strip() for name in COLUMNS}
    if not found["value"]:
        raise ConfigError("value: is empty")
    seconds = parse_span_s(found["for"], "for")
    amounts = [parse_amount(one, "limits") for one in found["limits"].replace(";", " ").split()]
    return subject_pb2.ImportRequest.Row(
        value=found["value"],
        tier=found["tier"],
        tier_for_seconds=seconds if found["tier"] else 0,
        overrides=[
            subject_pb2.Amount(limit=name, amount=number, for_seconds=seconds)
            for name, number in amounts
        ],
        reason=found["reason"] or reason,
    )


def _check_first(before: int, line: int) -> None:
    if before != line:
        raise ConfigError(f"has the same value as line {before}")


def _calls(rows: Sequence[_Row]) -> Iterator[list[_Row]]:
    """Yield the rows of each call."""
    call: list[_Row] = []
    size = 0
    for row in rows:
        own = row.row.ByteSize() + 8
        if call and (len(call) == MAX_ROWS or size + own > MAX_CALL_BYTES):
            yield call
            call, size = [], 0
        call.append(row)
        size += own
    if call:
        yield call


def _request(
    domain: str, call: Sequence[_Row], *, validate_only: bool
) -> subject_pb2.ImportRequest:
    return subject_pb2.ImportRequest(
        domain=domain, rows=[one.row for one in call], validate_only=validate_only
    )


def _named(file: str, problems: Sequence[Problem]) -> Iterator[str]:
    ordered = sorted(problems)
    lines = (f"{file}:{line}: {text}" for line, text in ordered[:MAX_NAMED])
    more = len(ordered) - MAX_NAMED
    last = [f"and {more} more"] if more > 0 else []
    return chain(lines, last, ["nothing was imported"])

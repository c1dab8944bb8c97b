"""`ratelimitd validate --test`: a line for each case, and what came out otherwise.

On a terminal with marks and colours, and how far a long run is; else as plain words.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from ratelimitd import terminal
from ratelimitd.errors import ConfigError, PolicyError
from ratelimitd.policy.model import Policy
from ratelimitd.policy_tests.files import CaseFiles, Played, Results, play, read_files
from ratelimitd.policy_tests.junit import to_junit
from ratelimitd.policy_tests.told import to_lines

NAME = "ratelimitd"

LONG_RUN = 20_000
"""Requests; fewer are answered in a second or two, and a bar would only flicker."""


def play_tests(path: Path, junit: Path | None, policy: Policy) -> int:
    """Play the tests at `path` and tell of them; returns the exit code."""
    console = _console()
    try:
        files = read_files(path, policy)
        for finding in files.warnings:
            terminal.complain_plainly(f"warning: {finding}")
        console.print()
        with _progress(console, files) as on_asked:
            results = play(files, policy, lambda played: _tell(console, played), on_asked)
    except PolicyError as error:
        for finding in error.findings:
            terminal.complain_plainly(str(finding))
        found = terminal.count(len(error.findings), "error")
        terminal.complain(NAME, [f"{found} in the tests; none was played"])
        return terminal.EXIT_USAGE
    except ConfigError as error:
        terminal.complain(NAME, str(error).splitlines())
        return terminal.EXIT_USAGE
    return _end(console, results, junit)


def _end(console: Console, results: Results, junit: Path | None) -> int:
    """Tell how many passed, write the file for the build, and return the exit code."""
    cases = terminal.count(len(results.played), "case")
    summary = f"{results.failed} failed." if results.failed else "all passed."
    _print(console, "")
    _print(console, f"{cases}, {summary}", "bold red" if results.failed else "bold green")
    if junit is not None:
        try:
            junit.write_bytes(to_junit(results))
        except OSError as error:
            terminal.complain(NAME, [f"cannot write {junit}: {error.strerror}"])
            return terminal.EXIT_USAGE
    return terminal.EXIT_FAILED if results.failed else 0


def _tell(console: Console, played: Played) -> None:
    words = ("✓", "✗") if console.is_terminal else ("pass", "FAIL")
    line = Text.assemble(
        (words[not played.is_passed], "green" if played.is_passed else "red"),
        f"  {terminal.printable(played.case.name)}",
        (terminal.printable(f"  ({played.file}:{played.case.line})"), "dim"),
    )
    console.print(line, soft_wrap=True)
    for text in to_lines(played):
        _print(console, f"      {text}")


def _print(console: Console, text: str, style: str = "") -> None:
    console.print(Text(terminal.printable(text), style), soft_wrap=True)


def _console(*, is_stderr: bool = False) -> Console:
    return Console(stderr=is_stderr, highlight=False, emoji=False, markup=False)


@contextmanager
def _progress(console: Console, files: CaseFiles) -> Iterator[Callable[[int], None]]:
    """Show how many requests were answered, while it is long and somebody looks."""
    shown_on = console if console.is_terminal else _console(is_stderr=True)
    total = files.request_count
    columns = (TextColumn("requests"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    is_shown = total >= LONG_RUN and shown_on.is_terminal
    with Progress(*columns, console=shown_on, transient=True, disable=not is_shown) as progress:
        task = progress.add_task("requests", total=total)
        yield lambda count: progress.advance(task, count)

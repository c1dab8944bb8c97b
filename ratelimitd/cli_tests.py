"""`ratelimitd validate --test`: a line for each case, and what came out otherwise."""

from pathlib import Path

import typer

from ratelimitd import terminal
from ratelimitd.errors import ConfigError, PolicyError
from ratelimitd.policy.model import Policy
from ratelimitd.policy_tests.files import Played, play, to_junit

NAME = "ratelimitd"


def play_tests(path: Path, junit: Path | None, policy: Policy) -> int:
    """Play the tests at `path` and tell of them; returns the exit code."""
    typer.echo("")
    try:
        results = play(path, policy, _tell)
    except PolicyError as error:
        for finding in error.findings:
            terminal.complain_plainly(str(finding))
        found = terminal.count(len(error.findings), "error")
        terminal.complain(NAME, [f"{found} in the tests; none was played"])
        return terminal.EXIT_USAGE
    except ConfigError as error:
        terminal.complain(NAME, str(error).splitlines())
        return terminal.EXIT_USAGE
    if junit is not None:
        try:
            junit.write_bytes(to_junit(results))
        except OSError as error:
            terminal.complain(NAME, [f"cannot write {junit}: {error.strerror}"])
            return terminal.EXIT_FAILED
    cases = terminal.count(len(results.played), "case")
    if not results.failed:
        typer.echo(f"\n{cases}, all passed.")
        return 0
    typer.echo(f"\n{cases}, {results.failed} failed.")
    return terminal.EXIT_FAILED


def _tell(played: Played) -> None:
    mark = "pass" if played.is_passed else "FAIL"
    typer.echo(
        terminal.printable(f"{mark}  {played.case.name}  ({played.file}:{played.case.line})")
    )
    for difference in played.differences:
        typer.echo(terminal.printable(f"      {difference}"))

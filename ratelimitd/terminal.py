"""What both command lines share: a user's mistake is one line and an exit code, no traceback."""

import sys
from collections.abc import Iterable
from typing import cast

import typer

# Typer keeps click's exceptions to itself; this is the one that all usage errors share.
_USAGE_ERROR = cast("type[Exception]", typer.BadParameter.__mro__[1])

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


def run_app(app: typer.Typer, name: str, arguments: list[str] | None = None) -> int:
    """Run `app` and return the exit code; what is wrong with the arguments goes to stderr."""
    try:
        code = app(arguments, prog_name=name, standalone_mode=False)
    except typer.Abort:
        return EXIT_INTERRUPTED
    except _USAGE_ERROR as error:
        return _show_usage_error(error, name)
    except BrokenPipeError:
        # Whoever read our output has gone; there is nobody to tell.
        sys.stderr.close()
        return EXIT_FAILED
    return code if isinstance(code, int) else 0


def complain(name: str, lines: Iterable[str]) -> None:
    """Write each line to stderr, after the name of the command."""
    for line in lines:
        typer.echo(f"{name}: {line}", err=True)


def _show_usage_error(error: Exception, name: str) -> int:
    context = getattr(error, "ctx", None)
    command = context.command_path if context else name
    message = " ".join(str(getattr(error, "format_message", lambda: error)()).split())
    if not message or type(error).__name__ == "NoArgsIsHelpError":
        message = "a command is missing"
    complain(command, [f"{message.rstrip('.')} (see `{command} --help`)"])
    return EXIT_USAGE

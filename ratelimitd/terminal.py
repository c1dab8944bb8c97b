"""What both command lines share: a user's mistake is one line and an exit code, no traceback.

Rules:
- What is printed has no control character of an argument, a file or a server: it cannot move the
  cursor, nor look like a line of ours.
- Output that cannot be written is an error of its own; complaints that cannot be are lost.
"""

import contextlib
import errno
import os
import sys
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from typing import Annotated, cast

import typer

# Typer keeps click's exceptions to itself; this is the one that all usage errors share.
_USAGE_ERROR = cast("type[Exception]", typer.BadParameter.__mro__[1])

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
HELP_NAMES = {"help_option_names": ["-h", "--help"]}

# How writing ends where the disk is full, the device broken or the descriptor closed.
_UNWRITABLE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF})


def run_app(app: typer.Typer, name: str, arguments: Sequence[str] | None = None) -> int:
    """Run `app` and return the exit code; what is wrong with the arguments goes to stderr."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if wrong := _first_not_utf8(given):
        complain(name, [f"{wrong}: is not UTF-8"])
        return EXIT_USAGE
    _escape_what_stdout_lacks()
    try:
        code = _call(app, name, given)
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read our output has gone; there is nobody to tell.
        sys.stderr.close()
        return EXIT_FAILED
    except OSError as error:
        if error.errno not in _UNWRITABLE or error.filename is not None:
            raise
        _forget_stdout()
        complain(name, [f"cannot write the output: {error.strerror}"])
        return EXIT_FAILED
    return code


def complain(name: str, lines: Iterable[str]) -> None:
    """Write each line to stderr, after the name of the command."""
    for line in lines:
        complain_plainly(f"{name}: {line}")


def complain_plainly(line: str) -> None:
    """Write one line to stderr as it is, for those that editors read."""
    with contextlib.suppress(OSError):
        typer.echo(printable(line), err=True)


def printable(text: str) -> str:
    """Return `text` with escapes for whatever a terminal would act upon."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def count(number: int, noun: str) -> str:
    """Return `1 error` or `2 errors`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def add_version(app: typer.Typer, name: str, help_text: str) -> None:
    """Give `app` the flag --version."""

    def show(is_asked: bool) -> None:  # noqa: FBT001 - typer's own order
        if is_asked:
            typer.echo(f"{name} {version('ratelimitd')}")
            raise typer.Exit

    @app.callback(help=help_text)
    def with_version(
        *,
        _version: Annotated[
            bool,
            typer.Option("--version", callback=show, is_eager=True, help="Print the version."),
        ] = False,
    ) -> None: ...


def _call(app: typer.Typer, name: str, arguments: Sequence[str]) -> int:
    try:
        code = app(arguments, prog_name=name, standalone_mode=False)
    except typer.Abort:
        return EXIT_INTERRUPTED
    except _USAGE_ERROR as error:
        return _show_usage_error(error, name)
    return code if isinstance(code, int) else 0


def _first_not_utf8(arguments: Sequence[str]) -> str:
    """Return the name of the first argument whose bytes are no text, or nothing."""
    for index, argument in enumerate(arguments):
        try:
            argument.encode()
        except UnicodeEncodeError:
            flag, equals, _ = argument.partition("=")
            before = arguments[index - 1] if index else ""
            named = flag if equals and flag.startswith("--") else before
            return printable(named) if named.startswith("--") else f"argument {index + 1}"
    return ""


def _escape_what_stdout_lacks() -> None:
    """Let characters that stdout's encoding does not have be written as escapes."""
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")


def _forget_stdout() -> None:
    """Send what is still buffered nowhere, so that nobody fails with it again at the exit."""
    with contextlib.suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _show_usage_error(error: Exception, name: str) -> int:
    context = getattr(error, "ctx", None)
    command = context.command_path if context else name
    message = " ".join(str(getattr(error, "format_message", lambda: error)()).split())
    if not message or type(error).__name__ == "NoArgsIsHelpError":
        if context:
            typer.echo(context.get_help())
        message = "a command is missing"
    complain(command, [f"{message.rstrip('.')} (see `{command} --help`)"])
    return EXIT_USAGE

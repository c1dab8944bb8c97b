"""Both command lines with arguments that are no text, and output that cannot be written."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ratelimitd.terminal import count, printable

TOOLS = Path(sys.executable).parent
GOOD = """\
domain: "caf\u00e9"
descriptors:
  - {key: path, rate_limit: {unit: minute, requests_per_unit: 5}}
"""


def run(
    *command: str | bytes, out: int = subprocess.PIPE, **environ: str
) -> subprocess.CompletedProcess[bytes]:
    """Run one of our tools as a user does."""
    name, *arguments = command
    return subprocess.run(
        [os.path.join(os.fsencode(TOOLS), os.fsencode(name)), *arguments],  # noqa: PTH118 - bytes
        stdout=out,
        stderr=subprocess.PIPE,
        env={**os.environ, **environ},
        timeout=60,
        check=False,
    )


@pytest.fixture
def policy(tmp_path: Path) -> str:
    (tmp_path / "a.yaml").write_text(GOOD, "utf-8")
    return str(tmp_path)


@pytest.mark.parametrize(
    ("command", "line"),
    [
        (
            ("ratelimitctl", "hit", "--domain", "d", "--descriptor", b"a=\xff"),
            "ratelimitctl: --descriptor: is not UTF-8",
        ),
        (
            ("ratelimitctl", "peek", "--domain", "d", b"--descriptor=a=\xff"),
            "ratelimitctl: --descriptor: is not UTF-8",
        ),
        (("ratelimitctl", b"\xff"), "ratelimitctl: argument 1: is not UTF-8"),
        (("ratelimitd", "serve", "--region", b"\xff"), "ratelimitd: --region: is not UTF-8"),
    ],
)
def test_argument_that_is_not_utf8_is_exit_2(command: tuple[str | bytes, ...], line: str) -> None:
    done = run(*command)

    assert done.returncode == 2
    assert done.stderr.decode() == line + "\n"


def test_stdout_without_the_character_shows_an_escape() -> None:
    program = (
        "import typer; from ratelimitd import terminal; from rich.console import Console\n"
        "app = typer.Typer()\n"
        "app.command()(lambda: Console().print('caf\\xe9'))\n"
        "raise SystemExit(terminal.run_app(app, 'test'))\n"
    )

    done = run(Path(sys.executable).name, "-c", program, PYTHONIOENCODING="ascii")

    assert done.returncode == 0, done.stderr
    assert done.stdout == b"caf\\xe9\n"


@pytest.mark.parametrize("arguments", [("--help",), ("--version",), ()])
@pytest.mark.parametrize("tool", ["ratelimitd", "ratelimitctl"])
def test_stdout_that_cannot_be_written_is_exit_1_and_one_line(
    tool: str, arguments: tuple[str, ...]
) -> None:
    with Path("/dev/full").open("wb") as full:
        done = run(tool, *arguments, out=full.fileno())

    assert done.returncode == 1
    assert done.stderr.decode() == f"{tool}: cannot write the output: No space left on device\n"


def test_validate_that_cannot_print_is_exit_1_and_one_line(policy: str) -> None:
    with Path("/dev/full").open("wb") as full:
        done = run("ratelimitd", "validate", policy, out=full.fileno())

    assert done.returncode == 1
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("tool", ["ratelimitd", "ratelimitctl"])
def test_version_is_printed(tool: str) -> None:
    done = run(tool, "--version")

    assert done.returncode == 0
    assert done.stdout.decode().startswith(f"{tool} 0.")


@pytest.mark.parametrize("command", [(), ("hit",)])
def test_short_help_is_the_help(command: tuple[str, ...]) -> None:
    short, long = (run("ratelimitctl", *command, flag) for flag in ("-h", "--help"))

    assert short.returncode == 0
    assert short.stdout == long.stdout


def test_printable_escapes_what_a_terminal_acts_upon() -> None:
    assert printable("caf\u00e9 \u4e2d") == "caf\u00e9 \u4e2d"
    assert printable("\x1b[1m\n\x9b\u202e") == "\\x1b[1m\\n\\x9b\\u202e"


def test_count_has_the_right_plural() -> None:
    assert [count(number, "limit") for number in (0, 1, 2)] == ["0 limits", "1 limit", "2 limits"]

"""What the commands of ratelimitctl share: the flags of a connection, and how a call ends."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NamedTuple, TypeVar

import typer
from google.protobuf.message import Message

from ratelimitd import terminal
from ratelimitd.errors import ConfigError, RatelimitError
from ratelimitd.settings.values import parse_listen

NAME = "ratelimitctl"
ADMIN_ADDRESS = "127.0.0.1:8082"
TIMEOUT_S = 5.0

R = TypeVar("R", bound=Message)

Json = Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")]
Address = Annotated[
    str,
    typer.Option("--address", metavar="HOST:PORT", help="Or unix:PATH."),
]
Timeout = Annotated[
    float,
    typer.Option(
        "--timeout",
        metavar="SECONDS",
        min=0.001,
        max=3600,
        help="How long to wait for the answer.",
    ),
]
Tls = Annotated[
    bool,
    typer.Option("--tls", help="Speak TLS; so do --ca and --cert."),
]
Ca = Annotated[
    Path | None,
    typer.Option("--ca", metavar="FILE", help="Whom to trust."),
]
Cert = Annotated[
    Path | None,
    typer.Option("--cert", metavar="FILE", help="Our certificate."),
]
Key = Annotated[Path | None, typer.Option("--key", metavar="FILE", help="Its key.")]
ServerName = Annotated[
    str | None,
    typer.Option(
        "--server-name",
        metavar="NAME",
        help="Name in the server's certificate, if not the host.",
    ),
]


class Target(NamedTuple):
    """The flags of a connection; those of TLS are for the gRPC port."""

    address: str
    timeout_s: float
    has_tls: bool = False
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    server_name: str | None = None


def call(to: Target, path: str, request: Message, answer: type[R]) -> R:
    """Send `request` and return the answer. Raises ConfigError for flags, and CallError."""
    try:
        parse_listen(to.address)
    except ValueError as error:
        raise ConfigError(f"--address: {to.address!r} is not accepted: {error}") from error
    # gRPC's core reads this when it is imported; its own lines would stand between ours.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from ratelimitd import ctl_call  # noqa: PLC0415 - see above

    return ctl_call.call(ctl_call.Connection(**to._asdict()), path, request, answer)


def guarded(ask: Callable[[], int]) -> int:
    """Return the exit code of `ask`; what went wrong is told on stderr."""
    try:
        return ask()
    except ConfigError as error:
        terminal.complain(NAME, str(error).splitlines())
        return terminal.EXIT_USAGE
    except RatelimitError as error:
        terminal.complain(NAME, str(error).splitlines())
        return terminal.EXIT_FAILED

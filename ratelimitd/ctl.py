"""The command line for a running daemon: hit spends, peek looks, explain tells why.

Exit codes: 0 OK; 3 OVER_LIMIT; 1 no answer, or an error; 2 the flags are wrong.
"""

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NamedTuple, TypeVar

import typer
from google.protobuf.message import Message

from ratelimitd import ctl_output, terminal
from ratelimitd._proto.envoy.service.ratelimit.v3 import rls_pb2
from ratelimitd._proto.ratelimitd.inspect.v1 import inspect_pb2
from ratelimitd.errors import ConfigError, RatelimitError
from ratelimitd.settings.values import parse_count, parse_listen

NAME = "ratelimitctl"
EXIT_OVER_LIMIT = 3
MAX_HITS = 2**32 - 1
GRPC_ADDRESS = "127.0.0.1:8081"
ADMIN_ADDRESS = "127.0.0.1:8082"
TIMEOUT_S = 5.0

HIT = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"
PEEK = "/ratelimitd.inspect.v1.InspectService/Peek"
EXPLAIN = "/ratelimitd.inspect.v1.InspectService/Explain"

R = TypeVar("R", bound=Message)

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings=terminal.HELP_NAMES,
    rich_markup_mode=None,  # as in cli.py
)
terminal.add_version(app, NAME, "Asks a running ratelimitd.")

Domain = Annotated[str, typer.Option("--domain", metavar="NAME", help="The policy's domain.")]
Descriptors = Annotated[
    list[str],
    typer.Option(
        "--descriptor",
        metavar="KEY=VALUE,...",
        help="Entries in order; repeat it for more descriptors. A backslash keeps a comma.",
    ),
]
Hits = Annotated[str, typer.Option("--hits", metavar="N", help="The cost.")]
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


def main() -> None:
    """Run the command line and exit."""
    sys.exit(terminal.run_app(app, NAME))


@app.command()
def hit(  # noqa: PLR0913 - a flag is an argument
    *,
    domain: Domain,
    descriptor: Descriptors,
    hits: Hits = "1",
    json: Json = False,
    address: Address = GRPC_ADDRESS,
    timeout: Timeout = TIMEOUT_S,
    tls: Tls = False,
    ca: Ca = None,
    cert: Cert = None,
    key: Key = None,
    server_name: ServerName = None,
) -> int:
    """Ask as Envoy does, and spend."""
    to = Target(address, timeout, tls, ca, cert, key, server_name)

    def ask() -> int:
        request = _request(domain, descriptor, parse_hits(hits))
        return _show(_call(to, HIT, request, rls_pb2.RateLimitResponse), descriptor, json=json)

    return _guarded(ask)


@app.command()
def peek(  # noqa: PLR0913 - a flag is an argument
    *,
    domain: Domain,
    descriptor: Descriptors,
    hits: Hits = "1",
    json: Json = False,
    address: Address = ADMIN_ADDRESS,
    timeout: Timeout = TIMEOUT_S,
    tls: Tls = False,
    ca: Ca = None,
    cert: Cert = None,
    key: Key = None,
    server_name: ServerName = None,
) -> int:
    """Tell what hit would answer, and spend nothing."""
    to = Target(address, timeout, tls, ca, cert, key, server_name)

    def ask() -> int:
        request = inspect_pb2.PeekRequest(request=_request(domain, descriptor, parse_hits(hits)))
        answer = _call(to, PEEK, request, inspect_pb2.PeekResponse)
        return _show(answer.response, descriptor, json=json)

    return _guarded(ask)


@app.command()
def explain(  # noqa: PLR0913 - a flag is an argument
    *,
    domain: Domain,
    descriptor: Descriptors,
    json: Json = False,
    address: Address = ADMIN_ADDRESS,
    timeout: Timeout = TIMEOUT_S,
    tls: Tls = False,
    ca: Ca = None,
    cert: Cert = None,
    key: Key = None,
    server_name: ServerName = None,
) -> int:
    """Tell which rule each descriptor matches and why, or where matching stops."""
    to = Target(address, timeout, tls, ca, cert, key, server_name)

    def ask() -> int:
        request = inspect_pb2.ExplainRequest(request=_request(domain, descriptor, 0))
        answer = _call(to, EXPLAIN, request, inspect_pb2.ExplainResponse)
        if json:
            ctl_output.print_json(answer)
        else:
            ctl_output.print_explanation(descriptor, answer)
        return 0

    return _guarded(ask)


class Target(NamedTuple):
    """The flags of a connection."""

    address: str
    timeout_s: float
    has_tls: bool
    ca: Path | None
    certificate: Path | None
    key: Path | None
    server_name: str | None


def parse_descriptor(text: str) -> list[tuple[str, str]]:
    """Read `key=value,key2=value2`; ConfigError says what is wrong with it."""
    entries = []
    for part in re.split(r"(?<!\\),", text):
        key, equals, value = part.replace("\\,", ",").partition("=")
        if not key or not equals:
            raise ConfigError(
                f"--descriptor: {part!r} is not accepted: write key=value, "
                "or key=value,key2=value2 for more entries"
            )
        entries.append((key, value))
    return entries


def parse_hits(text: str) -> int:
    """Read a cost; ConfigError says what is accepted."""
    try:
        return parse_count(text, minimum=1, maximum=MAX_HITS)
    except ValueError as error:
        raise ConfigError(f"--hits: {text!r} is not accepted: {error}") from error


def _request(domain: str, descriptors: list[str], hits: int) -> rls_pb2.RateLimitRequest:
    request = rls_pb2.RateLimitRequest(domain=domain, hits_addend=hits)
    for text in descriptors:
        descriptor = request.descriptors.add()
        for key, value in parse_descriptor(text):
            descriptor.entries.add(key=key, value=value)
    return request


def _call(to: Target, path: str, request: Message, answer: type[R]) -> R:
    try:
        parse_listen(to.address)
    except ValueError as error:
        raise ConfigError(f"--address: {to.address!r} is not accepted: {error}") from error
    # gRPC's core reads this when it is imported; its own lines would stand between ours.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from ratelimitd import ctl_call  # noqa: PLC0415 - see above

    return ctl_call.call(ctl_call.Connection(**to._asdict()), path, request, answer)


def _show(answer: rls_pb2.RateLimitResponse, descriptors: list[str], *, json: bool) -> int:
    if json:
        ctl_output.print_json(answer)
    else:
        ctl_output.print_answer(descriptors, answer)
    is_over = answer.overall_code == rls_pb2.RateLimitResponse.OVER_LIMIT
    return EXIT_OVER_LIMIT if is_over else 0


def _guarded(ask: Callable[[], int]) -> int:
    try:
        return ask()
    except ConfigError as error:
        terminal.complain(NAME, str(error).splitlines())
        return terminal.EXIT_USAGE
    except RatelimitError as error:
        terminal.complain(NAME, str(error).splitlines())
        return terminal.EXIT_FAILED


if __name__ == "__main__":
    main()

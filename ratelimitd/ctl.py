"""The command line for a running daemon: hit spends, peek looks, explain tells why.

The commands about subjects are in ctl_subject.py, those about blocks in ctl_block.py.

Exit codes: 0 OK; 3 OVER_LIMIT; 1 no answer, or an error; 2 the flags are wrong.
"""

import re
import sys
from typing import Annotated

import typer

from ratelimitd import ctl_block, ctl_flags, ctl_output, ctl_subject, terminal
from ratelimitd._proto.envoy.service.ratelimit.v3 import rls_pb2
from ratelimitd._proto.ratelimitd.inspect.v1 import inspect_pb2
from ratelimitd.ctl_flags import (
    ADMIN_ADDRESS,
    TIMEOUT_S,
    Address,
    Ca,
    Cert,
    Json,
    Key,
    ServerName,
    Target,
    Timeout,
    Tls,
    call,
    guarded,
)
from ratelimitd.errors import ConfigError
from ratelimitd.settings.values import parse_count

NAME = ctl_flags.NAME
EXIT_OVER_LIMIT = 3
MAX_HITS = 2**32 - 1
GRPC_ADDRESS = "127.0.0.1:8081"

HIT = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"
PEEK = "/ratelimitd.inspect.v1.InspectService/Peek"
EXPLAIN = "/ratelimitd.inspect.v1.InspectService/Explain"

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings=terminal.HELP_NAMES,
    rich_markup_mode=None,  # as in cli.py
)
terminal.add_version(app, NAME, "Asks a running ratelimitd.")
app.add_typer(ctl_subject.app, name="subject")
ctl_block.add_commands(app)

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
        return _show(call(to, HIT, request, rls_pb2.RateLimitResponse), descriptor, json=json)

    return guarded(ask)


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
        answer = call(to, PEEK, request, inspect_pb2.PeekResponse)
        return _show(answer.response, descriptor, json=json)

    return guarded(ask)


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
        answer = call(to, EXPLAIN, request, inspect_pb2.ExplainResponse)
        if json:
            ctl_output.print_json(answer)
        else:
            ctl_output.print_explanation(descriptor, answer)
        return 0

    return guarded(ask)


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


def _show(answer: rls_pb2.RateLimitResponse, descriptors: list[str], *, json: bool) -> int:
    if json:
        ctl_output.print_json(answer)
    else:
        ctl_output.print_answer(descriptors, answer)
    is_over = answer.overall_code == rls_pb2.RateLimitResponse.OVER_LIMIT
    return EXIT_OVER_LIMIT if is_over else 0


if __name__ == "__main__":
    main()

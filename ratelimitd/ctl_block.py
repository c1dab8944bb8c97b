"""`ratelimitctl block`, `unblock` and `blocks`: entries that are refused whatever limits say."""

from typing import Annotated

import typer

from ratelimitd import ctl_output, ctl_subject_output
from ratelimitd._proto.ratelimitd.subject.v1 import subject_pb2
from ratelimitd.ctl_flags import ADMIN_ADDRESS, TIMEOUT_S, Address, Json, Target, Timeout, guarded
from ratelimitd.ctl_flags import call as call_daemon
from ratelimitd.ctl_values import parse_entries, parse_span_s

SERVICE = "/ratelimitd.subject.v1.SubjectService"
PAGE = 500

DomainArgument = Annotated[str, typer.Argument(metavar="DOMAIN", help="The policy's domain.")]
EntryArguments = Annotated[
    list[str],
    typer.Argument(
        metavar="KEY=VALUE...",
        help="Each is blocked by itself; KEY=- reads the value from stdin.",
    ),
]


def add_commands(app: typer.Typer) -> None:
    """Give `app` the commands."""
    app.command("block")(block)
    app.command("unblock")(unblock)
    app.command("blocks")(blocks)


def block(
    *,
    domain: DomainArgument,
    entries: EntryArguments,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; kept and logged.")],
    span: Annotated[
        str, typer.Option("--for", metavar="SPAN", help="How long, like 10m; else for ever.")
    ] = "",
    json: Json = False,
    address: Address = ADMIN_ADDRESS,
    timeout: Timeout = TIMEOUT_S,
) -> int:
    """Refuse whoever has one of these entries, within a second."""

    def ask() -> int:
        request = subject_pb2.BlockRequest(
            domain=domain,
            for_seconds=parse_span_s(span),
            entries=parse_entries(entries),
            reason=reason,
        )
        to = Target(address, timeout)
        answer = call_daemon(to, f"{SERVICE}/Block", request, subject_pb2.BlockResponse)
        if json:
            ctl_output.print_json(answer)
        else:
            ctl_subject_output.print_blocks(answer.blocks, has_header=True)
        return 0

    return guarded(ask)


def unblock(
    *,
    domain: DomainArgument,
    entries: EntryArguments,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; logged.")] = "",
    address: Address = ADMIN_ADDRESS,
    timeout: Timeout = TIMEOUT_S,
) -> int:
    """End blocks."""

    def ask() -> int:
        request = subject_pb2.UnblockRequest(
            domain=domain, entries=parse_entries(entries), reason=reason
        )
        to = Target(address, timeout)
        answer = call_daemon(to, f"{SERVICE}/Unblock", request, subject_pb2.UnblockResponse)
        number = answer.unblocked
        typer.echo(f"unblocked {number} {'entry' if number == 1 else 'entries'}")
        return 0

    return guarded(ask)


def blocks(
    *,
    domain: DomainArgument,
    json: Json = False,
    address: Address = ADMIN_ADDRESS,
    timeout: Timeout = TIMEOUT_S,
) -> int:
    """Print which entries of a domain are blocked, for how long and why."""

    def ask() -> int:
        request = subject_pb2.ListBlocksRequest(domain=domain, page_size=PAGE)
        to = Target(address, timeout)
        is_first = True
        while is_first or request.page_token:
            answer = call_daemon(
                to, f"{SERVICE}/ListBlocks", request, subject_pb2.ListBlocksResponse
            )
            request.page_token = answer.next_page_token
            if json:
                answer.next_page_token = ""
                ctl_output.print_json(answer)
            else:
                ctl_subject_output.print_blocks(answer.blocks, has_header=is_first)
            is_first = False
        return 0

    return guarded(ask)

"""`ratelimitctl subject`: tiers and amounts of single subjects, kept by the daemon's store."""

from collections.abc import Iterable
from typing import Annotated

import typer

from ratelimitd import ctl_import, ctl_output, ctl_subject_output, terminal
from ratelimitd._proto.ratelimitd.subject.v1 import subject_pb2
from ratelimitd.ctl_flags import ADMIN_ADDRESS, TIMEOUT_S, Address, Json, Target, Timeout, guarded
from ratelimitd.ctl_flags import call as call_daemon
from ratelimitd.ctl_values import parse_amount, parse_entry, parse_span_s
from ratelimitd.errors import ConfigError

SERVICE = "/ratelimitd.subject.v1.SubjectService"
PAGE = 500

app = typer.Typer(
    help="Give single subjects a tier, or amounts of their own.",
    no_args_is_help=True,
    context_settings=terminal.HELP_NAMES,
    rich_markup_mode=None,
)

DomainArgument = Annotated[str, typer.Argument(metavar="DOMAIN", help="The policy's domain.")]
EntryArgument = Annotated[
    str,
    typer.Argument(
        metavar="KEY=VALUE",
        help="The subject; KEY=- reads the value from stdin, so that no shell remembers it.",
    ),
]
Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; kept and logged.")]


@app.command("set")
def set_subject(  # noqa: PLR0913 - a flag is an argument
    *,
    domain: DomainArgument,
    entry: EntryArgument,
    reason: Reason,
    tier: Annotated[
        str | None, typer.Option("--tier", metavar="NAME", help="Its tier; '' takes it away.")
    ] = None,
    limit: Annotated[
        list[str] | None,
        typer.Option(
            "--limit",
            metavar="NAME=NUMBER",
            help="An amount of its own for the limit of that name, or for all: '*=NUMBER'.",
        ),
    ] = None,
    no_limit: Annotated[
        list[str] | None,
        typer.Option("--no-limit", metavar="NAME", help="Take such an amount away."),
    ] = None,
    span: Annotated[
        str,
        typer.Option(
            "--for", metavar="SPAN", help="How long what is set now holds, like 30d; else for ever."
        ),
    ] = "",
    suspend: Annotated[
        bool | None,
        typer.Option("--suspend/--resume", help="Admit nothing at all; or end that."),
    ] = None,
    version: Annotated[
        int | None,
        typer.Option(
            "--version", min=0, metavar="N", help="Only if this is its version, 0 for a new one."
        ),
    ] = None,
    json: Json = False,
    address: Address = ADMIN_ADDRESS,
    timeout: Timeout = TIMEOUT_S,
) -> int:
    """Change the record of a subject, or make it; what is not said stays."""

    def ask() -> int:
        seconds = parse_span_s(span)
        amounts = [parse_amount(text) for text in limit or ()]
        removed = list(no_limit or ())
        if suspend is True:
            amounts.append(("*", 0))
        elif suspend is False:
            removed.append("*")
        if tier is None and not amounts and not removed:
            raise ConfigError("nothing to set: give --tier, --limit, --no-limit or --suspend")
        request = subject_pb2.SetRequest(
            domain=domain,
            entry=parse_entry(entry),
            tier=tier,
            tier_for_seconds=seconds if tier else 0,
            overrides=[
                subject_pb2.Amount(limit=name, amount=number, for_seconds=seconds)
                for name, number in amounts
            ],
            removed_limits=removed,
            reason=reason,
            version=version,
        )
        to = Target(address, timeout)
        answer = call_daemon(to, f"{SERVICE}/Set", request, subject_pb2.SetResponse)
        return _show(answer.record, answer, answer.warnings, json=json)

    return guarded(ask)


@app.command()
def show(
    *,
    domain: DomainArgument,
    entry: EntryArgument,
    json: Json = False,
    address: Address = ADMIN_ADDRESS,
    timeout: Timeout = TIMEOUT_S,
) -> int:
    """Print the record of a subject."""

    def ask() -> int:
        request = subject_pb2.ShowRequest(domain=domain, entry=parse_entry(entry))
        to = Target(address, timeout)
        answer = call_daemon(to, f"{SERVICE}/Show", request, subject_pb2.ShowResponse)
        return _show(answer.record, answer, (), json=json)

    return guarded(ask)


@app.command("list")
def list_subjects(
    *,
    domain: DomainArgument,
    json: Json = False,
    address: Address = ADMIN_ADDRESS,
    timeout: Timeout = TIMEOUT_S,
) -> int:
    """Print the records of a domain; secret values are shown as 8 digits."""

    def ask() -> int:
        request = subject_pb2.ListRequest(domain=domain, page_size=PAGE)
        to = Target(address, timeout)
        is_first = True
        while is_first or request.page_token:
            answer = call_daemon(to, f"{SERVICE}/List", request, subject_pb2.ListResponse)
            request.page_token = answer.next_page_token
            if json:
                answer.next_page_token = ""
                ctl_output.print_json(answer)
            else:
                ctl_subject_output.print_records(answer.records, has_header=is_first)
            is_first = False
        return 0

    return guarded(ask)


@app.command()
def delete(
    *,
    domain: DomainArgument,
    entry: EntryArgument,
    reason: Reason = "",
    address: Address = ADMIN_ADDRESS,
    timeout: Timeout = TIMEOUT_S,
) -> int:
    """Delete the record of a subject: the policy's numbers hold for it again."""

    def ask() -> int:
        request = subject_pb2.DeleteRequest(domain=domain, entry=parse_entry(entry), reason=reason)
        to = Target(address, timeout)
        call_daemon(to, f"{SERVICE}/Delete", request, subject_pb2.DeleteResponse)
        typer.echo("deleted")
        return 0

    return guarded(ask)


@app.command("import")
def import_subjects(
    *,
    domain: DomainArgument,
    file: Annotated[
        str,
        typer.Argument(metavar="FILE", help="CSV: value,tier,limits,for,reason; - is stdin."),
    ],
    reason: Annotated[
        str,
        typer.Option("--reason", metavar="TEXT", help="Why, for lines that do not say."),
    ] = "",
    address: Address = ADMIN_ADDRESS,
    timeout: Timeout = TIMEOUT_S,
) -> int:
    """Replace the records of all subjects in a file, or of none if a line is wrong.

    Limits are written NAME=NUMBER with a space or semicolon between them.
    """

    def ask() -> int:
        to = Target(address, timeout)

        def send(request: subject_pb2.ImportRequest) -> subject_pb2.ImportResponse:
            return call_daemon(to, f"{SERVICE}/Import", request, subject_pb2.ImportResponse)

        count = ctl_import.run(domain, file, reason, send)
        typer.echo(f"imported {terminal.count(count, 'subject')}")
        return 0

    return guarded(ask)


def _show(
    record: subject_pb2.Record,
    answer: subject_pb2.SetResponse | subject_pb2.ShowResponse,
    warnings: Iterable[str],
    *,
    json: bool,
) -> int:
    if json:
        ctl_output.print_json(answer)
    else:
        ctl_subject_output.print_record(record)
    for warning in warnings:
        terminal.complain("warning", [warning])
    return 0

"""What ratelimitctl prints: tables for people, JSON for scripts."""

from collections.abc import Sequence

from google.protobuf.json_format import MessageToJson
from google.protobuf.message import Message
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ratelimitd._proto.envoy.service.ratelimit.v3 import rls_pb2
from ratelimitd._proto.pool import POOL
from ratelimitd._proto.ratelimitd.inspect.v1 import inspect_pb2

_UNLIMITED = 2**32 - 1


def print_json(message: Message) -> None:
    """Print a message as JSON, in protobuf's own form."""
    Console(soft_wrap=True, highlight=False).print(
        MessageToJson(message, indent=2, descriptor_pool=POOL), markup=False
    )


def print_answer(descriptors: Sequence[str], answer: rls_pb2.RateLimitResponse) -> None:
    """Print a line for each descriptor, and the overall code."""
    table = Table(box=None, pad_edge=False)
    for heading in ("DESCRIPTOR", "CODE", "LIMIT", "REMAINING", "RESETS IN"):
        table.add_column(heading, overflow="fold")
    for descriptor, status in zip(descriptors, answer.statuses, strict=False):
        table.add_row(escape(descriptor), *_to_cells(status))
    console = Console(highlight=False)
    console.print(table)
    console.print(f"\n{_coloured(rls_pb2.RateLimitResponse.Code.Name(answer.overall_code))}")


def print_explanation(descriptors: Sequence[str], answer: inspect_pb2.ExplainResponse) -> None:
    """Print the steps of each descriptor, and what decides it."""
    console = Console(highlight=False, soft_wrap=True)
    for text, found in zip(descriptors, answer.descriptors, strict=False):
        console.print(f"[bold]{escape(text)}[/bold]")
        for step in found.steps:
            rule = f"  {step.rule}" if step.rule else ""
            console.print(f"  {step.entry}  {step.matched_by}{rule}", markup=False)
            console.print(f"      {step.reason}", markup=False)
        console.print(f"  {found.summary}", markup=False)
        if found.limit:
            console.print(f"  {found.limit}  ({found.position})", markup=False)
    console.print(f"\npolicy {answer.policy_revision}", markup=False)


def _to_cells(status: rls_pb2.RateLimitResponse.DescriptorStatus) -> tuple[str, str, str, str]:
    code = _coloured(rls_pb2.RateLimitResponse.Code.Name(status.code))
    if not status.HasField("current_limit"):
        is_unlimited = status.limit_remaining == _UNLIMITED
        return code, "unlimited" if is_unlimited else "none", "-", "-"
    limit = status.current_limit
    unit = rls_pb2.RateLimitResponse.RateLimit.Unit.Name(limit.unit).lower()
    name = f" ({escape(limit.name)})" if limit.name else ""
    return (
        code,
        f"{limit.requests_per_unit} per {unit}{name}",
        str(status.limit_remaining),
        f"{status.duration_until_reset.seconds} s",
    )


def _coloured(code: str) -> str:
    return f"[green]{code}[/green]" if code == "OK" else f"[red]{code}[/red]"

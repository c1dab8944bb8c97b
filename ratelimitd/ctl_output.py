"""What ratelimitctl prints: tables for people, JSON for scripts.

What an argument or the server says is data: no markup, no emoji codes, no control characters.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from google.protobuf.json_format import MessageToJson
from google.protobuf.message import Message
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ratelimitd._proto.envoy.service.ratelimit.v3 import rls_pb2
from ratelimitd._proto.pool import POOL
from ratelimitd._proto.ratelimitd.inspect.v1 import inspect_pb2
from ratelimitd.terminal import printable

_UNLIMITED = 2**32 - 1
# Where an answer that the store did not decide says so, in its dynamic metadata.
_FAILURE_KEY = "store_failure"
_SPANS = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))


def print_json(message: Message) -> None:
    """Print a message as JSON, in protobuf's own form."""
    console().print(Text(MessageToJson(message, indent=2, descriptor_pool=POOL)), soft_wrap=True)


def print_answer(descriptors: Sequence[str], answer: rls_pb2.RateLimitResponse) -> None:
    """Print a line for each descriptor, and the overall code."""
    table = Table(box=None, pad_edge=False)
    for heading in ("DESCRIPTOR", "CODE", "LIMIT", "REMAINING", "RESETS IN"):
        table.add_column(heading, overflow="fold")
    for descriptor, status in zip(descriptors, answer.statuses, strict=False):
        table.add_row(Text(printable(descriptor)), *_to_cells(status))
    out = console()
    out.print(table)
    overall = _coloured(rls_pb2.RateLimitResponse.Code.Name(answer.overall_code))
    if failed_by := _store_failure(answer):
        overall.append(f"  (store away: {printable(failed_by)})")
    out.print(Text("\n").append_text(overall))


def print_explanation(descriptors: Sequence[str], answer: inspect_pb2.ExplainResponse) -> None:
    """Print the steps of each descriptor, and what decides it."""
    out = console()

    def line(text: str, style: str = "") -> None:
        out.print(Text(printable(text), style), soft_wrap=True)

    for text, found in zip(descriptors, answer.descriptors, strict=False):
        line(text, "bold")
        for step in found.steps:
            rule = f"  {step.rule}" if step.rule else ""
            line(f"  {step.entry}  {step.matched_by}{rule}")
            line(f"      {step.reason}")
        line(f"  {found.summary}")
        if found.limit:
            line(f"  {found.limit}  ({found.position})")
        for stands in _standing(found):
            line(f"  {stands}")
    out.print()
    line(f"policy {answer.policy_revision}")


def describe_span(seconds: int) -> str:
    """Return a span in its two largest units: `41 s`, `10 d 7 h`."""
    for (large, large_s), (small, small_s) in pairwise(_SPANS):
        if seconds >= large_s:
            rest = seconds % large_s // small_s
            return f"{seconds // large_s} {large}" + (f" {rest} {small}" if rest else "")
    return f"{seconds} s"


def console() -> Console:
    """Return where output goes: without markup, emoji codes or highlights."""
    return Console(highlight=False, emoji=False, markup=False)


def _to_cells(status: rls_pb2.RateLimitResponse.DescriptorStatus) -> tuple[Text, Text, Text, Text]:
    code = _coloured(rls_pb2.RateLimitResponse.Code.Name(status.code))
    if not status.HasField("current_limit"):
        is_unlimited = status.limit_remaining == _UNLIMITED
        waits = status.HasField("duration_until_reset")
        resets = describe_span(status.duration_until_reset.seconds) if waits else "-"
        return code, Text("unlimited" if is_unlimited else "none"), Text("-"), Text(resets)
    limit = status.current_limit
    unit = rls_pb2.RateLimitResponse.RateLimit.Unit.Name(limit.unit).lower()
    # A length without a unit of Envoy's, or what is in flight, has none.
    per = f" per {unit}" if limit.unit else ""
    name = f" ({printable(limit.name)})" if limit.name else ""
    return (
        code,
        Text(f"{limit.requests_per_unit}{per}{name}"),
        Text(str(status.limit_remaining)),
        Text(describe_span(status.duration_until_reset.seconds)),
    )


def _standing(found: inspect_pb2.ExplainResponse.Descriptor) -> Iterator[str]:
    """Yield who asks, and what holds for them."""
    if found.block:
        yield f"blocked: {found.block}"
    if found.subject:
        tier = f"tier {found.tier} ({found.tier_origin})" if found.tier else "no tier"
        yield f"subject {found.subject}, {tier}"
    if len(found.limits) > 1 or any(limit.reason for limit in found.limits):
        for limit in found.limits:
            name = f"{limit.name}: " if limit.name else ""
            reason = f", {limit.reason}" if limit.reason else ""
            yield f"- {name}{limit.amount} for each {limit.scope}{reason}".replace(
                "for each global", "for everybody"
            )


def _store_failure(answer: rls_pb2.RateLimitResponse) -> str:
    """Return by which failure policy the answer was given, or nothing: the store decided."""
    return (
        answer.dynamic_metadata.fields[_FAILURE_KEY].string_value
        if (_FAILURE_KEY in answer.dynamic_metadata.fields)
        else ""
    )


def _coloured(code: str) -> Text:
    return Text(code, "green" if code == "OK" else "red")

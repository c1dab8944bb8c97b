"""What the commands about subjects and blocks print; as in ctl_output, it is data, never markup."""

import time
from collections.abc import Iterable, Sequence
from typing import Final

from google.protobuf.message import Message
from rich.text import Text

from ratelimitd._proto.ratelimitd.subject.v1 import subject_pb2
from ratelimitd.ctl_output import console, describe_span
from ratelimitd.terminal import printable

# A longer cell pushes the rest of its line.
MAX_WIDTH: Final = 48
_NOTHING: Final = "-"


def print_record(record: subject_pb2.Record) -> None:
    """Print one record, a line for each thing that it says."""
    rows = [
        ("tier", (record.tier or _NOTHING) + _until(record, "tier_until")),
        *(("limit", describe_override(one)) for one in record.overrides),
        ("reason", record.reason or _NOTHING),
        ("version", str(record.version)),
    ]
    out = console()
    out.print(Text(printable(record.entry), "bold"), soft_wrap=True)
    for name, text in rows:
        out.print(Text(f"  {name:8} {printable(text)}"), soft_wrap=True)


def print_records(records: Iterable[subject_pb2.Record], *, has_header: bool) -> None:
    """Print a line for each record."""
    _print_table(
        ("ENTRY", "TIER", "LIMITS", "REASON"),
        (
            (
                one.entry,
                (one.tier or _NOTHING) + _until(one, "tier_until"),
                ", ".join(map(describe_override, one.overrides)) or _NOTHING,
                one.reason,
            )
            for one in records
        ),
        has_header=has_header,
    )


def print_blocks(blocks: Iterable[subject_pb2.BlockedEntry], *, has_header: bool) -> None:
    """Print a line for each block."""
    _print_table(
        ("ENTRY", "ENDS IN", "REASON"),
        ((one.entry, _left(one, "until") or "never", one.reason) for one in blocks),
        has_header=has_header,
    )


def describe_override(one: subject_pb2.Override) -> str:
    """Return an override in a few words."""
    if one.limit == "*":
        what = "suspended" if not one.amount else f"{one.amount} for all limits"
    else:
        what = f"{one.limit}={one.amount}"
    return what + _until(one, "until")


def _until(message: Message, name: str) -> str:
    left = _left(message, name)
    return f" (for {left})" if left else ""


def _left(message: Message, name: str) -> str:
    """Return how long it is to the time `name` of a message; empty where there is none."""
    if not message.HasField(name):
        return ""
    return describe_span(max(0, round(getattr(message, name).seconds - time.time())))


def _print_table(names: Sequence[str], rows: Iterable[Sequence[str]], *, has_header: bool) -> None:
    """Print one line for each row, however long, so that programs can search them."""
    cells = [[printable(cell) for cell in row] for row in rows]
    widths = [min(MAX_WIDTH, max(map(len, column))) for column in zip(names, *cells, strict=True)]
    out = console()
    for row in [names, *cells] if has_header else cells:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        out.print(Text(line.rstrip()), soft_wrap=True)

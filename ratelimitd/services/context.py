"""What a transport tells a service about a call."""

from typing import NamedTuple


class CallContext(NamedTuple):
    """`timeout_s` is what is left of the caller's patience, None if it set no deadline."""

    timeout_s: float | None = None
    trace_parent: str | None = None

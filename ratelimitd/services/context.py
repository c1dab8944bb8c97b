"""What a transport tells a service about a call."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class CallContext:
    """`timeout_s` is what is left of the caller's patience, None if it set no deadline."""

    timeout_s: float | None = None
    trace_parent: str | None = None

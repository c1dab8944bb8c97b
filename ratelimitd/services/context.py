"""What a transport tells a service about a call."""

from typing import NamedTuple

from ratelimitd.services.gate import Peer


class CallContext(NamedTuple):
    """`timeout_s` is what is left of the caller's patience, None if it set no deadline.

    `caller` is None where nobody asks who calls. `address` is where the call came from, as far as
    the transport knows it.
    """

    timeout_s: float | None = None
    trace_parent: str | None = None
    caller: Peer | None = None
    address: str = ""

"""What one algorithm of the model says about one check."""

from typing import Any, NamedTuple


class Outcome(NamedTuple):
    """A charge as if it were admitted: the counter after it, and what a reply tells.

    `lost` is what the counter cannot hold.
    """

    state: Any
    before: int
    after: int
    is_over: bool
    lost: int = 0


class Told(NamedTuple):
    """What is told of a counter once its request is settled."""

    used: int
    reset_us: int
    retry_us: int

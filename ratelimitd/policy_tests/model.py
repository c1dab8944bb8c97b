"""What a policy test says: who asks what and when, and what the answer shall be.

Rules:
- A case is a story of steps on counters that begin empty.
- What is not expected is not looked at.
"""

from dataclasses import dataclass
from enum import StrEnum

from ratelimitd.decisions.request import Descriptor

NEVER = "never"


class Answer(StrEnum):
    """What a request is told."""

    OK = "ok"
    OVER_LIMIT = "over_limit"


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What a step wants of the last of its answers; None is not looked at.

    `retry_after_us` is -1 for never. `admitted` counts those of all repeats that were answered OK.
    """

    verdict: Answer | None = None
    rule: str | None = None
    remaining: int | None = None
    retry_after_us: int | None = None
    admitted: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One request, asked `repeat` times at `now_us`; each descriptor has its own hits."""

    line: int
    now_us: int
    domain: str
    descriptors: tuple[Descriptor, ...]
    repeat: int
    tier: str
    expected: Expected


@dataclass(frozen=True, slots=True)
class Case:
    """A story."""

    name: str
    line: int
    steps: tuple[Step, ...]

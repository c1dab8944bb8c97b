"""Calls that were refused because of who makes them: counted by a reason, and in the log.

Rules:
- The reasons are a fixed list; who was refused and why stands in the log alone.
- A caller has one line for each reason in QUIET_S, so that the loudest does not hide the others;
  of all callers together the bound of a BoundedLog holds. What is left out is counted in the next
  line.
"""

import logging
import time
from collections.abc import Callable
from enum import StrEnum
from typing import Final

from ratelimitd.defects import BoundedLog
from ratelimitd.errors import NotPermitted
from ratelimitd.telemetry.counters import Telemetry

_log = logging.getLogger("ratelimitd.callers")

QUIET_S: Final = 10.0
# Names of refused callers that are remembered; with more all are forgotten, and told again.
MAX_CALLERS: Final = 1_000


class RefusedCaller(StrEnum):
    """What was wrong with a caller, in the order in which it is looked at."""

    NAME = "name"
    UNKNOWN = "unknown"
    METHOD = "method"
    DOMAIN = "domain"


class RefusedCallers:
    """Counts in a Telemetry, and writes to the log at INFO; `now` is monotonic."""

    def __init__(self, telemetry: Telemetry, now: Callable[[], float] = time.monotonic) -> None:
        """Show every reason from the start."""
        self._counts = telemetry.refused_callers
        self._counts.update({reason.value: 0 for reason in RefusedCaller})
        self._lines = BoundedLog(_log, logging.INFO, now=now)
        self._now = now
        self._told_s: dict[tuple[RefusedCaller, str], float] = {}

    def refuse(self, reason: RefusedCaller, caller: str, message: str) -> NotPermitted:
        """Count and log a refusal, and return it to be raised."""
        self._counts[reason.value] += 1
        now_s, key = self._now(), (reason, caller)
        if now_s - self._told_s.get(key, -QUIET_S) < QUIET_S:
            self._lines.suppressed += 1
        else:
            if len(self._told_s) >= MAX_CALLERS:
                self._told_s.clear()
            self._told_s[key] = now_s
            self._lines.write("refused: %s", message)
        return NotPermitted(message)

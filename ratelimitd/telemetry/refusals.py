"""Refusals in the log: enough to see who is refused and why, never a line per request.

Rules:
- In any span of one second a rule has at most LINES_PER_SECOND lines; the next line of the rule
  says how many were left out before it.
- The table is bounded: rules beyond it share one entry.
- Values appear only as a fingerprint, computed for lines that are written. Time is an argument,
  monotonic.
"""

import logging
import re
from collections import deque
from collections.abc import Callable

from ratelimitd.policy.dump import describe_amount
from ratelimitd.policy.model import Limit
from ratelimitd.telemetry.counters import LogSeries
from ratelimitd.telemetry.logs import fields

LINES_PER_SECOND = 10
SPAN_S = 1.0
# As many rules as can be refused in one second before they share their lines.
MAX_RULES = 1_000

_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?")
_NO_TRACE = "0" * 32

_log = logging.getLogger("ratelimitd.refusals")


class RefusalLog:
    """Writes refusals at INFO, within the bound."""

    def __init__(self, counts: LogSeries) -> None:
        """Count in `counts` what is left out."""
        self._counts = counts
        self._rules: dict[str, _Recent] = {}
        self._others = _Recent()
        self._forgotten_s = -SPAN_S

    def refused(
        self,
        limit: Limit,
        *,
        fingerprint: Callable[[], str],
        trace_id: str,
        revision: str,
        now_s: float,
    ) -> None:
        """Log that `limit` refused the values behind `fingerprint`, or count that it was not."""
        if not _log.isEnabledFor(logging.INFO):
            return
        recent = self._recent(limit.rule, now_s)
        times = recent.times
        if len(times) == LINES_PER_SECOND and now_s - times[0] < SPAN_S:
            recent.suppressed += 1
            self._counts.suppressed_refusals += 1
            return
        times.append(now_s)
        suppressed, recent.suppressed = recent.suppressed, 0
        values: dict[str, object] = {
            "domain": limit.domain,
            "rule": limit.rule,
            "limit": describe_amount(limit),
            "value": fingerprint(),
            "policy": revision,
        }
        if trace_id:
            values["trace_id"] = trace_id
        if suppressed:
            values["suppressed"] = suppressed
        _log.info("refused", extra=fields(**values))

    def _recent(self, rule: str, now_s: float) -> "_Recent":
        """Return the entry of `rule`; while the table is full, the one that the others share."""
        recent = self._rules.get(rule)
        if recent is not None:
            return recent
        if len(self._rules) >= MAX_RULES and now_s - self._forgotten_s >= SPAN_S:
            self._forget(now_s)
        if len(self._rules) >= MAX_RULES:
            return self._others
        return self._rules.setdefault(rule, _Recent())

    def _forget(self, now_s: float) -> None:
        """Drop the entries whose last line is older than the span: they bound nothing any more.

        Once per span, because it walks the table. What they left out stays in the metric.
        """
        self._forgotten_s = now_s
        self._rules = {
            rule: recent
            for rule, recent in self._rules.items()
            if recent.times and now_s - recent.times[-1] < SPAN_S
        }


class _Recent:
    """When a rule's last lines were written, and how many were left out since."""

    __slots__ = ("suppressed", "times")

    def __init__(self) -> None:
        """Start without a line."""
        self.times: deque[float] = deque(maxlen=LINES_PER_SECOND)
        self.suppressed = 0


def trace_id(traceparent: str) -> str:
    """Return the trace id of a W3C `traceparent` header, "" if there is none or it is malformed."""
    match = _TRACEPARENT.fullmatch(traceparent)
    return match[1] if match and match[1] != _NO_TRACE else ""

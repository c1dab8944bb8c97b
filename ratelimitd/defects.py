"""Lines that a caller can cause, in the log: what nobody foresaw, and what is refused.

Rules:
- At most LINES_PER_SECOND in any second for each log here; the next line says how many were left
  out before it. A caller that finds a defect can so not fill a disk with it.
- Time is an argument of the constructor, monotonic.
"""

import logging
import time
from collections import deque
from collections.abc import Callable

LINES_PER_SECOND = 5
SPAN_S = 1.0


class BoundedLog:
    """Writes lines to `log`, within the bound."""

    def __init__(
        self, log: logging.Logger, level: int, *, now: Callable[[], float] = time.monotonic
    ) -> None:
        """Start with nothing written."""
        self.suppressed = 0
        self._log = log
        self._level = level
        self._now = now
        self._times: deque[float] = deque(maxlen=LINES_PER_SECOND)

    def write(self, text: str, *args: object, error: BaseException | None = None) -> None:
        """Log `text` % `args`, with the traceback of `error`, or count that it was not."""
        now_s = self._now()
        if len(self._times) == LINES_PER_SECOND and now_s - self._times[0] < SPAN_S:
            self.suppressed += 1
            return
        self._times.append(now_s)
        if self.suppressed:
            text, args = f"{text} (%d more before were not logged)", (*args, self.suppressed)
            self.suppressed = 0
        self._log.log(self._level, text, *args, exc_info=error)


class DefectLog(BoundedLog):
    """Errors that nobody foresaw, each with its traceback."""

    def __init__(self, log: logging.Logger, *, now: Callable[[], float] = time.monotonic) -> None:
        """Start with nothing written."""
        super().__init__(log, logging.ERROR, now=now)

    def record(self, error: BaseException | None, text: str, *args: object) -> None:
        """Log `text` % `args` with the traceback of `error`, or count that it was not."""
        self.write(text, *args, error=error)

"""Log lines leave the process through a bounded queue and a thread, so that no loop ever waits.

Rules:
- Code logs through the standard library; what a machine should read goes into `extra=fields(...)`.
- A full queue drops the line and counts it; the next line that passes says how many were lost.
- Whatever happens to the output (closed, broken pipe, full disk), the daemon goes on.
- Secrets are not logged. The filter is the second lock: known secrets and the credentials of
  URLs become `***` wherever they stand.
"""

import json
import logging
import os
import queue
import re
import threading
import time
from collections.abc import Collection, Mapping
from enum import StrEnum

from ratelimitd.telemetry.counters import LogSeries

# Some seconds of the busiest log that the bounds elsewhere allow, some MiB at most.
MAX_QUEUED = 4_096
# A line is for reading; findings of a large policy fit.
MAX_LINE = 16_384
STOP_TIMEOUT_S = 2.0

# What operators change is logged whatever the level: a trail with gaps is none.
AUDIT_LOGGER = "ratelimitd.audit"

_URL_CREDENTIALS = re.compile(r"(?<=://)[^/\s@]+@")
_CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), 127) if chr(code) not in "\n\t"}
_HIDDEN = "***"


class LogFormat(StrEnum):
    """For people, or for machines: one JSON object per line."""

    TEXT = "text"
    JSON = "json"


def fields(**values: object) -> dict[str, dict[str, object]]:
    """Return `values` as the `extra` of a log call: `log.info("loaded", extra=fields(rules=3))`."""
    return {"fields": values}


class LogWriter:
    """Owns the queue, the thread and the output; `start_logging` makes it the root's handler."""

    def __init__(
        self,
        formatter: logging.Formatter,
        counts: LogSeries,
        *,
        fd: int,
        capacity: int = MAX_QUEUED,
    ) -> None:
        """Write to a duplicate of `fd`, so that nobody else's descriptor can take its number."""
        self.handler = _QueueingHandler(queue.Queue(capacity), counts)
        self._lines = self.handler.lines
        self._formatter = formatter
        self._counts = counts
        self._reported = 0
        try:
            self._fd = os.dup(fd)
        except OSError:
            self._fd = -1  # started without this output: every line counts as unwritable
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """Write what is queued, waiting at most `timeout_s`; later lines are not written."""
        deadline_s = time.monotonic() + timeout_s
        self.handler.is_open = False
        try:
            self._lines.put(None, timeout=timeout_s)
        except queue.Full:
            return
        self._thread.join(max(0.0, deadline_s - time.monotonic()))

    def _run(self) -> None:
        """Write lines until the None that `stop` queues."""
        while (record := self._lines.get()) is not None:
            self._write(self._format(record))
            self._report_drops()
        if self._fd >= 0:
            os.close(self._fd)

    def _format(self, record: logging.LogRecord) -> str:
        """Return the line; a record that cannot be formatted is named, never raised."""
        try:
            return self._formatter.format(record)
        except Exception as error:  # noqa: BLE001 - a formatter's bug must not end the log
            return f"a log line of {record.name} cannot be formatted: {type(error).__name__}"

    def _report_drops(self) -> None:
        """Say once how many lines the queue lost since the last such line."""
        dropped = self._counts.dropped_full
        if dropped == self._reported:
            return
        record = logging.LogRecord(
            __name__, logging.WARNING, "", 0, "log lines dropped: the queue was full", None, None
        )
        record.fields = {"count": dropped - self._reported}
        self._reported = dropped
        self._write(self._format(record))

    def _write(self, line: str) -> None:
        """Write `line` whole, or count it as lost."""
        text = line if len(line) <= MAX_LINE else f"{line[:MAX_LINE]} ..."
        rest = (text + "\n").encode("utf-8", "backslashreplace")
        try:
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        except OSError:
            self._counts.dropped_unwritable += 1


def start_logging(
    counts: LogSeries,
    *,
    level: int = logging.INFO,
    log_format: LogFormat = LogFormat.TEXT,
    secrets: Collection[str] = (),
    fd: int = 2,
) -> LogWriter:
    """Send the root logger's lines to `fd`, by default stderr; call `stop` on the answer at exit.

    `secrets` are texts that must never appear, such as the store's password.
    """
    redact = Redaction(secrets)
    formatter = TextFormatter(redact) if log_format is LogFormat.TEXT else JsonFormatter(redact)
    writer = LogWriter(formatter, counts, fd=fd)
    root = logging.getLogger()
    root.handlers[:] = [writer.handler]
    # What libraries say below a warning is about themselves, and may be a line for each request.
    root.setLevel(max(level, logging.WARNING))
    logging.getLogger("ratelimitd").setLevel(level)
    logging.getLogger(AUDIT_LOGGER).setLevel(min(level, logging.INFO))
    return writer


class Redaction:
    """Hides known secrets, and the credentials in URLs, in any text."""

    def __init__(self, secrets: Collection[str]) -> None:
        """Hide each of `secrets`, longest first, so that none survives inside another."""
        self._secrets = sorted(filter(None, secrets), key=len, reverse=True)

    def __call__(self, text: str) -> str:
        """Return `text` without secrets."""
        for secret in self._secrets:
            text = text.replace(secret, _HIDDEN)
        return _URL_CREDENTIALS.sub(f"{_HIDDEN}@", text) if "://" in text else text


class TextFormatter(logging.Formatter):
    """`2026-01-31 12:00:00.123 warning store: message  key=value`; further lines are indented."""

    def __init__(self, redact: Redaction) -> None:
        """Write times in UTC."""
        super().__init__()
        self._redact = redact

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; a text from outside can neither forge a line nor move the cursor."""
        message = record.getMessage()
        values = _fields_of(record)
        if values:
            message += "  " + " ".join(f"{name}={_plain(value)}" for name, value in values.items())
        if record.exc_info:
            message += "\n" + self.formatException(record.exc_info)
        message = self._redact(message).translate(_CONTROL).replace("\n", "\n    ")
        stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(record.created))
        name = record.name.removeprefix("ratelimitd.")
        return f"{stamp}.{int(record.msecs):03d} {_level_of(record):7} {name}: {message}"


class JsonFormatter(logging.Formatter):
    """One object per line: time (UTC), level, logger, message, then the fields of the call."""

    def __init__(self, redact: Redaction) -> None:
        """Redact every text before it is encoded, so that escapes cannot hide a secret."""
        super().__init__()
        self._redact = redact

    def format(self, record: logging.LogRecord) -> str:
        """Return the object; a field cannot replace the first four names."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, object] = {
            **{name: self._clean(value) for name, value in _fields_of(record).items()},
            "time": f"{stamp}.{int(record.msecs):03d}Z",
            "level": _level_of(record),
            "logger": record.name,
            "message": self._redact(record.getMessage()),
        }
        if record.exc_info:
            line["exception"] = self._redact(self.formatException(record.exc_info))
        first = ("time", "level", "logger", "message")
        ordered = {name: line[name] for name in first} | line
        return json.dumps(ordered, ensure_ascii=True)

    def _clean(self, value: object) -> object:
        """Return numbers and truth values as they are, everything else as redacted text."""
        if value is None or isinstance(value, bool | int | float):
            return value
        return self._redact(str(value))


class _QueueingHandler(logging.Handler):
    """Hands records to the writer's thread, or drops them."""

    def __init__(self, lines: "queue.Queue[logging.LogRecord | None]", counts: LogSeries) -> None:
        """Count in `counts` what does not fit into `lines`."""
        super().__init__()
        self.lines = lines
        self.is_open = True
        self._counts = counts

    def emit(self, record: logging.LogRecord) -> None:
        """Fix the text now, because its arguments may change, and queue it."""
        try:
            record.msg = record.getMessage()
        except Exception:  # noqa: BLE001 - a wrong log call must not break a request
            record.msg = str(record.msg)
        record.args = None
        if self.is_open:
            try:
                self.lines.put_nowait(record)
            except queue.Full:
                self._counts.dropped_full += 1


def _fields_of(record: logging.LogRecord) -> Mapping[str, object]:
    """Return what `fields` attached."""
    values = getattr(record, "fields", None)
    return values if isinstance(values, Mapping) else {}


def _level_of(record: logging.LogRecord) -> str:
    """Return the level's name in lower case; CRITICAL is `fatal`, as operators know it."""
    return "fatal" if record.levelno >= logging.CRITICAL else record.levelname.lower()


def _plain(value: object) -> str:
    """Return `value` as one word of a text line, quoted where it is none."""
    text = str(value)
    return text if re.fullmatch(r"[^\s\"=]+", text) else json.dumps(text, ensure_ascii=False)

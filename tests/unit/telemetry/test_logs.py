import contextlib
import json
import logging
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimitd.telemetry.counters import LogSeries
from ratelimitd.telemetry.logs import (
    MAX_LINE,
    MAX_QUEUED,
    JsonFormatter,
    LogFormat,
    LogWriter,
    Redaction,
    TextFormatter,
    fields,
    start_logging,
)

CREATED_S = 1_700_000_000.25


@pytest.fixture(autouse=True)
def _root() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    for fd in (reader, writer):
        with contextlib.suppress(OSError):
            os.close(fd)


def record(message: str, **values: object) -> logging.LogRecord:
    made = logging.LogRecord("ratelimitd.store", logging.WARNING, "", 0, message, None, None)
    made.created, made.msecs = CREATED_S, 250
    made.fields = values
    return made


def read_all(pipe: tuple[int, int]) -> str:
    os.close(pipe[1])
    chunks = []
    while chunk := os.read(pipe[0], 65_536):
        chunks.append(chunk)
    return b"".join(chunks).decode()


def test_text_line_is_readable_and_carries_the_fields() -> None:
    line = TextFormatter(Redaction(())).format(record("store is back", after_s=1.5, at="unix: /x"))

    assert line == (
        '2023-11-14 22:13:20.250 warning store: store is back  after_s=1.5 at="unix: /x"'
    )


def test_text_line_cannot_be_forged_from_outside() -> None:
    forged = "bad\r\n2023-11-14 22:13:20.250 error store: all gone\x1b[2J"

    lines = TextFormatter(Redaction(())).format(record(forged)).split("\n")

    assert lines[0].endswith(r"store: bad\x0d")
    assert lines[1] == r"    2023-11-14 22:13:20.250 error store: all gone\x1b[2J"


def test_json_line_is_one_object_with_the_fields() -> None:
    line = JsonFormatter(Redaction(())).format(
        record('two\nlines "quoted"', count=3, ok=True, rule="a", level="forged", none=None)
    )

    assert "\n" not in line
    assert json.loads(line) == {
        "time": "2023-11-14T22:13:20.250Z",
        "level": "warning",
        "logger": "ratelimitd.store",
        "message": 'two\nlines "quoted"',
        "count": 3,
        "ok": True,
        "rule": "a",
        "none": None,
    }


@given(st.text(), st.dictionaries(st.text(max_size=5), st.text(max_size=20), max_size=3))
def test_json_line_holds_any_text(message: str, values: dict[str, str]) -> None:
    made = record(message)
    made.fields = values

    parsed = json.loads(JsonFormatter(Redaction(())).format(made))

    assert parsed["message"] == message
    assert parsed["logger"] == "ratelimitd.store"


def test_fatal_is_called_as_operators_know_it() -> None:
    made = record("cannot start")
    made.levelno, made.levelname = logging.CRITICAL, "CRITICAL"

    assert " fatal   store: cannot start" in TextFormatter(Redaction(())).format(made)


@pytest.mark.parametrize("formatter", [TextFormatter, JsonFormatter])
def test_secrets_are_hidden_wherever_they_stand(
    formatter: type[TextFormatter | JsonFormatter],
) -> None:
    secret = 'p"w\\d'
    made = record(f"cannot reach redis://user:{secret}@host:6379", url=f"at {secret}", pw=secret)
    made.exc_info = (RuntimeError, RuntimeError(secret), None)

    line = formatter(Redaction([secret, "", "p"])).format(made)

    assert secret not in line
    assert json.dumps(secret)[1:-1] not in line
    assert "***@host:6379" in line


def test_secret_that_starts_with_another_is_hidden_whole() -> None:
    assert Redaction(["abc", "abcdef"])("it is abcdef") == "it is ***"


def test_url_credentials_are_hidden_though_nobody_named_them() -> None:
    line = TextFormatter(Redaction(())).format(record("dial rediss://bob:hunter2@cache:6380/1"))

    assert line.endswith("dial rediss://***@cache:6380/1")


def test_lines_reach_the_output_in_order(pipe: tuple[int, int]) -> None:
    writer = start_logging(LogSeries(), fd=pipe[1], log_format=LogFormat.JSON)
    log = logging.getLogger("ratelimitd.test")

    for number in range(5):
        log.info("line %d", number, extra=fields(number=number))
    log.debug("not at this level")
    writer.stop()
    log.info("too late")

    lines = [json.loads(line) for line in read_all(pipe).splitlines()]
    assert [line["message"] for line in lines] == [f"line {number}" for number in range(5)]
    assert [line["number"] for line in lines] == list(range(5))


def test_libraries_are_held_at_warning(pipe: tuple[int, int]) -> None:
    writer = start_logging(LogSeries(), fd=pipe[1], level=logging.DEBUG)

    logging.getLogger("asyncio").info("about itself")
    logging.getLogger("asyncio").warning("about trouble")
    logging.getLogger("ratelimitd.test").debug("ours")
    writer.stop()

    text = read_all(pipe)
    assert "about itself" not in text
    assert "about trouble" in text
    assert "ours" in text


def test_wrong_log_call_breaks_nothing(pipe: tuple[int, int]) -> None:
    writer = start_logging(LogSeries(), fd=pipe[1])

    logging.getLogger("ratelimitd.test").info("%d of %d", 1)  # noqa: PLE1206 - the mistake under test
    writer.stop()

    assert "test: %d of %d" in read_all(pipe)


def test_record_that_cannot_be_formatted_is_named(pipe: tuple[int, int]) -> None:
    class Unprintable:
        def __str__(self) -> str:
            raise ValueError

    writer = start_logging(LogSeries(), fd=pipe[1])
    logging.getLogger("ratelimitd.test").info("odd", extra=fields(value=Unprintable()))
    logging.getLogger("ratelimitd.test").info("goes on")
    writer.stop()

    text = read_all(pipe)
    assert "a log line of ratelimitd.test cannot be formatted: ValueError" in text
    assert "goes on" in text


def test_long_line_is_cut(pipe: tuple[int, int]) -> None:
    writer = start_logging(LogSeries(), fd=pipe[1])

    logging.getLogger("ratelimitd.test").info("x" * (MAX_LINE * 2))
    writer.stop()

    line = read_all(pipe)
    assert line.endswith("x ...\n")
    assert len(line) == MAX_LINE + 5


def test_blocked_output_drops_lines_and_says_so(pipe: tuple[int, int]) -> None:
    # given a pipe that nobody reads, so that the writer's thread hangs in a write
    counts = LogSeries()
    writer = LogWriter(TextFormatter(Redaction(())), counts, fd=pipe[1], capacity=10)
    filler = record("x" * 70_000)

    # when far more is logged than pipe and queue hold
    for _ in range(100):
        writer.handler.handle(filler)

    # then nobody waited, and what was lost is counted
    assert counts.dropped_full >= 50

    # when the output is read again
    stopping = threading.Thread(target=writer.stop)
    stopping.start()
    text = read_all(pipe)
    stopping.join()

    # then the log says how many, each once
    told = [int(count) for count in re.findall(r"queue was full {2}count=(\d+)", text)]
    assert sum(told) == counts.dropped_full
    assert text.count("x ...\n") == 100 - counts.dropped_full


def test_stop_does_not_wait_for_a_blocked_output(pipe: tuple[int, int]) -> None:
    writer = LogWriter(TextFormatter(Redaction(())), LogSeries(), fd=pipe[1], capacity=2)
    for _ in range(20):
        writer.handler.handle(record("x" * 70_000))

    writer.stop(timeout_s=0.01)

    os.close(pipe[0])  # a broken pipe ends the hanging write


def test_broken_pipe_is_counted_and_survived(pipe: tuple[int, int]) -> None:
    counts = LogSeries()
    os.close(pipe[0])
    writer = start_logging(counts, fd=pipe[1])

    for _ in range(3):
        logging.getLogger("ratelimitd.test").warning("nobody reads this")
    writer.stop()

    assert counts.dropped_unwritable == 3


def test_missing_output_is_survived() -> None:
    counts = LogSeries()
    writer = start_logging(counts, fd=987_654)

    logging.getLogger("ratelimitd.test").warning("nobody reads this")
    writer.stop()

    assert counts.dropped_unwritable == 1


def test_output_is_not_mistaken_for_a_later_descriptor(pipe: tuple[int, int]) -> None:
    # given a log whose output somebody closes, and whose number is given to something else
    counts = LogSeries()
    writer = start_logging(counts, fd=pipe[1])
    other_reader, other_writer = os.pipe()
    os.dup2(other_writer, pipe[1])

    logging.getLogger("ratelimitd.test").warning("for the log")
    writer.stop()

    os.set_blocking(other_reader, False)
    with pytest.raises(BlockingIOError):
        os.read(other_reader, 1)
    assert os.read(pipe[0], 1_000).endswith(b"for the log\n")
    os.close(other_reader)
    os.close(other_writer)


@pytest.mark.parametrize("redirect", ["2>&-", "2>/dev/full", "2> >(true)"])
def test_process_survives_any_stderr(redirect: str, tmp_path: Path) -> None:
    program = (
        "import logging, pathlib, sys\n"
        "from ratelimitd.telemetry.counters import LogSeries\n"
        "from ratelimitd.telemetry.logs import start_logging\n"
        "writer = start_logging(LogSeries())\n"
        "for number in range(200):\n"
        "    logging.getLogger('x').error('line %d', number)\n"
        "writer.stop()\n"
        "pathlib.Path(sys.argv[1]).write_text('alive')\n"
    )
    alive = tmp_path / "alive"
    script = f'exec "$0" -c "$1" "$2" {redirect}'

    done = subprocess.run(
        ["bash", "-c", script, sys.executable, program, str(alive)], check=False, timeout=60
    )

    assert done.returncode == 0
    assert alive.read_text() == "alive"


def test_queue_bound_holds_what_the_docs_say() -> None:
    writer = LogWriter(TextFormatter(Redaction(())), LogSeries(), fd=987_654)

    assert writer.handler.lines.maxsize == MAX_QUEUED
    writer.stop()

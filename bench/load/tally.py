"""What a load process counts while it runs."""

from collections import Counter
from collections.abc import Iterable, Sequence

from bench.load.histogram import Histogram
from bench.load.peer import CODE_OVER_LIMIT, STATUS_NAMES, Answer
from bench.load.spec import LoadResult


class Tally:
    """Answers, errors by kind, and two histograms."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.answered = 0
        self.over_limit = 0
        self.reconnects = 0
        self.first_error = ""
        self._errors: Counter[int] = Counter()
        self._latency = Histogram()
        self._lag = Histogram()

    def add_sent(self, due_ns: Iterable[int], now_ns: int) -> None:
        """Count calls that were written now, by how long after their instants."""
        self._lag.record_waits(due_ns, now_ns)

    def add_answers(self, answers: Sequence[Answer], now_ns: int) -> None:
        """Count calls that ended now; the tag of each is the instant that it was due."""
        good = [answer for answer in answers if not answer.status]
        if len(good) < len(answers):
            self._errors.update(answer.status for answer in answers if answer.status)
        self.answered += len(good)
        self.over_limit += sum(answer.code == CODE_OVER_LIMIT for answer in good)
        self._latency.record_waits([answer.tag for answer in good], now_ns)

    def add_decisions(self, count: int, latency_ns: int) -> None:
        """Count decisions that one reply of the store brought."""
        self.answered += count
        self._latency.record(latency_ns)

    def add_error(self, status: int, count: int = 1, message: str = "") -> None:
        """Count calls that ended without an answer; the first message is kept."""
        if count:
            self._errors[status] += count
        self.first_error = self.first_error or message

    def to_result(self, seconds: float, client_cpu_s: float) -> LoadResult:
        """Return all of it."""
        return LoadResult(
            answered=self.answered,
            over_limit=self.over_limit,
            seconds=seconds,
            client_cpu_s=client_cpu_s,
            latency=self._latency,
            lag=self._lag,
            errors={_name(status): count for status, count in sorted(self._errors.items())},
            first_error=self.first_error,
            reconnects=self.reconnects,
        )


def _name(status: int) -> str:
    return STATUS_NAMES.get(status, f"status {status}")

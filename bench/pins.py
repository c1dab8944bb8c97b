"""Which cores the server, the store and the load run on."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pins:
    """Cores of each part; None where the kernel places it."""

    server: frozenset[int] | None = None
    store: frozenset[int] | None = None
    load: frozenset[int] | None = None

    def parts(self) -> tuple[frozenset[int], frozenset[int], frozenset[int]]:
        """Return the cores that server, store and load may use."""
        every = frozenset(our_cores())
        return self.server or every, self.store or every, self.load or every

    def to_text(self) -> str:
        """Return a sentence for the report."""
        if self.server is None or self.store is None or self.load is None:
            return "not pinned, too few cores to set the parts apart"
        if self.store == self.load:
            return f"server on core {_text(self.server)}, store and load on {_text(self.load)}"
        parts = (_text(self.server), _text(self.store), _text(self.load))
        return "server on core {}, store on {}, load on {}".format(*parts)


def plan_pins(cores: Sequence[int], *, workers: int, nodes: int = 1) -> Pins:
    """Give each worker a core of its own, then the store, then the load.

    With two cores and one worker the store and the load share the second: the server, which is
    what we measure, is alone. With fewer nothing is pinned.
    """
    if len(cores) < workers + 1 or (len(cores) == workers + 1 and workers > 1):
        return Pins()
    server, rest = frozenset(cores[:workers]), cores[workers:]
    if len(rest) == 1:
        return Pins(server, frozenset(rest), frozenset(rest))
    # Leave at least one core, and as many as the store has, to the load.
    store = rest[: max(1, min(nodes, len(rest) // 2))]
    return Pins(server, frozenset(store), frozenset(rest[len(store) :]))


def our_cores() -> list[int]:
    """Return the cores that this process may use."""
    return sorted(os.sched_getaffinity(0))


@contextmanager
def pinned_to(cores: frozenset[int] | None) -> Iterator[None]:
    """Run on `cores`; what is started inside the block stays there with all its threads."""
    before = os.sched_getaffinity(0)
    try:
        if cores:
            os.sched_setaffinity(0, cores)
        yield
    finally:
        os.sched_setaffinity(0, before)


def _text(cores: frozenset[int]) -> str:
    return ", ".join(str(core) for core in sorted(cores))

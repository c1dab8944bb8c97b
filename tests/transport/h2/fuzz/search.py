"""Looks for cases that break a rule: by changing those that showed something new.

Rules:
- What guides the search is behaviour, not coverage: a case is kept and changed further if one of
  its steps made the connection do or tell something that none had before. That costs nothing to
  observe; tracing lines costs more than the whole case, and libFuzzer for Python comes as 36 MB
  for one processor architecture.
- One seed gives one sequence of cases.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import TypeVar

from tests.transport.h2.fuzz.case import Case, to_text
from tests.transport.h2.fuzz.mutate import join_reads, mutate, to_frames, without_preface
from tests.transport.h2.fuzz.play import Feature, play
from tests.transport.h2.fuzz.sessions import captured, generated

# Of all cases so many are new sessions; the others are changes of what is known.
FRESH_SHARE = 0.1
RECENT = 50
# Of some KiB each.
MAX_KEPT = 5_000
T = TypeVar("T")


class Found(AssertionError):  # noqa: N818 - reads as what is the case
    """A case broke a rule; `case` is a small one that does."""

    def __init__(self, case: Case, broken: str) -> None:
        super().__init__(f"{broken}\n{to_text(case)}")
        self.case = case


@dataclass
class Search:
    """What is known so far."""

    random: Random
    cases: list[Case] = field(default_factory=list)
    features: set[Feature] = field(default_factory=set)
    played: int = 0

    def add_known(self, cases: Iterable[Case]) -> None:
        """Begin from `cases`."""
        for case in cases:
            self.features |= checked(case)
            self.cases.append(case)

    def step(self) -> None:
        """Play one more case. Raises Found."""
        case, is_valid = self._next()
        self.played += 1
        shown = checked(case, is_valid=is_valid)
        if not shown <= self.features:
            self.features |= shown
            self.cases.append(case)
            if len(self.cases) > MAX_KEPT:
                del self.cases[self.random.randrange(MAX_KEPT)]

    def _next(self) -> tuple[Case, bool]:
        """Return a case, and whether it is that of a client in good order."""
        random = self.random
        if not self.cases or random.random() < FRESH_SHARE:
            return generated(random) if random.random() < 0.8 else captured(random), True
        known = self.cases if random.random() < 0.5 else self.cases[-RECENT:]
        return mutate(random.choice(known), self.cases, random), False


def checked(case: Case, *, is_valid: bool = False) -> set[Feature]:
    """Play a case. Raises Found, with a smaller one that breaks a rule too if it may be cut."""
    try:
        return play(case, is_valid=is_valid)
    except Exception as error:
        small = shrink(case, is_broken) if is_broken(case) else case
        raise Found(small, f"{type(error).__name__}: {error}") from error


def is_broken(case: Case) -> bool:
    """Tell whether a case breaks a rule."""
    try:
        play(case)
    except Exception:  # noqa: BLE001 - an exception that escapes is what we look for
        return True
    return False


def shrink(case: Case, is_wanted: Callable[[Case], bool]) -> Case:
    """Return a smaller case that is wanted too: without steps, then frames, then bytes."""
    steps = _without_some(case.steps, lambda left: is_wanted(Case(case.bounds, tuple(left))))
    # Frames that are cut by a read cannot be taken out.
    if is_wanted(joined := join_reads(Case(case.bounds, tuple(steps)))):
        steps = list(joined.steps)
    for index, step in enumerate(steps):

        def is_enough(parts: Sequence[bytes], index: int = index) -> bool:
            changed = [*steps]
            changed[index] = steps[index]._replace(data=b"".join(parts))
            return is_wanted(Case(case.bounds, tuple(changed)))

        greeting = [step.data[: len(step.data) - len(without_preface(step.data))]]
        parts = _without_some(greeting + to_frames(without_preface(step.data)), is_enough)
        parts = _without_some([b"%c" % byte for byte in b"".join(parts)], is_enough)
        steps[index] = step._replace(data=b"".join(parts))
    return Case(case.bounds, tuple(steps))


def _without_some(items: Sequence[T], is_enough: Callable[[Sequence[T]], bool]) -> list[T]:
    """Return what is left of `items` when no part can be taken out any more, large parts first."""
    left = list(items)
    size = max(1, len(left) // 2)
    while size:
        position = 0
        while position < len(left):
            fewer = left[:position] + left[position + size :]
            if is_enough(fewer):
                left = fewer
            else:
                position += size
        size //= 2
    return left

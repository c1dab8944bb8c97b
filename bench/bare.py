"""The store alone: what one connection and check.lua can do without a server in between."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from bench.proc import Store, now_s, usage
from ratelimitd.decisions.options import DecisionOptions
from ratelimitd.decisions.plan import Plan
from ratelimitd.decisions.planning import make_plan
from ratelimitd.decisions.request import Descriptor, Request
from ratelimitd.policy.compile import compile_policy
from ratelimitd.policy.model import Policy
from ratelimitd.store.scripts import load_scripts
from ratelimitd.store.wire import to_arguments

POLICY = Path(__file__).with_name("policy")
BATCH = 64
FILL_BATCH = 512
_DIGITS = 9


@dataclass(frozen=True, slots=True)
class BareRun:
    """What one way of calling achieved."""

    name: str
    decisions_per_s: float
    client_us: float
    store_us: float


def load_policy() -> Policy:
    """Return the benchmarks' policy, compiled."""
    files = {path.name: path.read_bytes() for path in POLICY.glob("*.yaml")}
    return compile_policy(files).policy


def plan_of(policy: Policy, number: int) -> Plan:
    """Return the plan of the request that the load clients send for key `number`."""
    descriptor = Descriptor((("user", f"{number:0{_DIGITS}d}"),))
    return make_plan(policy, Request("bench", (descriptor,)), DecisionOptions(), b"\0" * 32)


def fill(store: Store, policy: Policy, keys: int) -> Iterator[int]:
    """Count once for each of `keys` users; yield how many are done, for a progress bar."""
    check = load_scripts().check
    store.client.script_load(check.text)
    for start in range(0, keys, FILL_BATCH):
        numbers = range(start, min(start + FILL_BATCH, keys))
        _evalsha(store, check.sha, [plan_of(policy, number) for number in numbers])
        yield numbers.stop


def measure(store: Store, policy: Policy, keys: int, seconds: float) -> Iterator[BareRun]:
    """Measure one decision per round trip, many per pipeline, and many per script call."""
    check = load_scripts().check
    store.client.script_load(check.text)
    random = Random(1)
    plans = [plan_of(policy, random.randrange(keys)) for _ in range(BATCH * 64)]

    def round_trip(offset: int) -> int:
        _evalsha(store, check.sha, [plans[offset % len(plans)]])
        return 1

    def pipeline(offset: int) -> int:
        pipe = store.client.pipeline(transaction=False)
        for plan in _slice(plans, offset):
            names, values = to_arguments([plan])
            pipe.evalsha(check.sha, len(names), *names, *values)
        return len(pipe.execute())

    def batch(offset: int) -> int:
        _evalsha(store, check.sha, _slice(plans, offset))
        return BATCH

    yield _repeat("one EVALSHA per decision, one at a time", round_trip, store, seconds)
    yield _repeat(f"one EVALSHA per decision, {BATCH} in a pipeline", pipeline, store, seconds)
    yield _repeat(f"one EVALSHA for {BATCH} decisions", batch, store, seconds)


def _repeat(name: str, step: Callable[[int], int], store: Store, seconds: float) -> BareRun:
    """Repeat `step` for `seconds` and divide by the decisions it made."""
    step(0)
    before, client_s, start_s = usage([store.pid]), time.process_time(), now_s()
    decisions = 0
    while now_s() - start_s < seconds:
        decisions += step(decisions)
    elapsed_s = now_s() - start_s
    client_s = time.process_time() - client_s
    store_s = usage([store.pid]).cpu_s - before.cpu_s
    return BareRun(
        name, decisions / elapsed_s, client_s / decisions * 1e6, store_s / decisions * 1e6
    )


def _slice(plans: Sequence[Plan], offset: int) -> Sequence[Plan]:
    start = offset % len(plans)
    return plans[start : start + BATCH]


def _evalsha(store: Store, sha: str, plans: Sequence[Plan]) -> None:
    names, values = to_arguments(plans)
    store.client.evalsha(sha, len(names), *names, *values)

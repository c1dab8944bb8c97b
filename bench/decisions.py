"""What the daemon would ask the store for a request of the load: plans and script calls."""

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import hiredis
import redis

from bench.load.bodies import DIGITS
from ratelimitd.decisions.options import DecisionOptions
from ratelimitd.decisions.plan import Plan
from ratelimitd.decisions.planning import make_plan
from ratelimitd.decisions.request import Descriptor, Request
from ratelimitd.policy.compile import compile_policy
from ratelimitd.policy.model import Policy
from ratelimitd.store.scripts import Script, load_scripts
from ratelimitd.store.wire import pack_plan, to_arguments

POLICY = Path(__file__).with_name("policy")
FILL_BATCH = 512


def load_policy() -> Policy:
    """Return the benchmarks' policy, compiled."""
    files = {path.name: path.read_bytes() for path in POLICY.glob("*.yaml")}
    return compile_policy(files).policy


@cache
def load_check() -> Script:
    """Return the script that decides."""
    return load_scripts().check


def plan_of(policy: Policy, number: int) -> Plan:
    """Return the plan of the one-descriptor request that the load sends for key `number`."""
    descriptor = Descriptor((("user", f"{number:0{DIGITS}d}"),))
    return make_plan(policy, Request("bench", (descriptor,)), DecisionOptions(), b"\0" * 32)


def check_command(plans: Sequence[Plan]) -> bytes:
    """Return one EVALSHA that decides `plans`, as the bytes of the store's protocol."""
    names, values = to_arguments([pack_plan(plan) for plan in plans])
    return pack_command("EVALSHA", load_check().sha, len(names), *names, *values)


def pack_command(*words: bytes | str | int) -> bytes:
    """Return a command as the bytes of the store's protocol."""
    packed: bytes = hiredis.pack_command(words)  # type: ignore[arg-type]  # takes any number
    return packed


def fill(client: "redis.Redis", policy: Policy, keys: int) -> Iterator[int]:
    """Count once for each of `keys` users; yield how many are done, for a progress bar."""
    check = load_check()
    client.script_load(check.text)
    for start in range(0, keys, FILL_BATCH):
        numbers = range(start, min(start + FILL_BATCH, keys))
        names, values = to_arguments([pack_plan(plan_of(policy, number)) for number in numbers])
        client.evalsha(check.sha, len(names), *names, *values)
        yield numbers.stop

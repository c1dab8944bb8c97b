"""What a process makes of a loaded policy: requests, metrics and pages show it at once."""

import asyncio
import time

from ratelimitd.app.compiler import PAUSE_S
from ratelimitd.policy.dump import to_json_head
from ratelimitd.policy.loaded import Loaded
from ratelimitd.services.policy_holder import PolicyHolder
from ratelimitd.telemetry.counters import Telemetry

_NO_DOMAINS = b'"domains": []\n}\n'


async def put_in_force(loaded: Loaded, holder: PolicyHolder, telemetry: Telemetry) -> None:
    """Replace the policy at once; the rows of metrics follow in steps."""
    holder.policy = loaded.policy
    holder.callers = loaded.callers
    holder.listing = loaded.listing
    holder.load_error = ""
    for tell in holder.listeners:
        tell()
    for _ in telemetry.policy_loaded(loaded.policy, now_s=time.time(), names=loaded.names):
        await asyncio.sleep(PAUSE_S)


def policy_page(holder: PolicyHolder) -> tuple[bytes, ...]:
    """Return the page that shows the policy in force, and what is wrong with a newer one."""
    revision = holder.policy.revision if holder.policy is not None else None
    rest = holder.listing.document if holder.listing is not None else (_NO_DOMAINS,)
    head = to_json_head(revision, holder.load_error.splitlines())
    return (head.encode("utf-8", "replace"), *rest)


def rlconfig_page(holder: PolicyHolder) -> tuple[bytes, ...]:
    """Return the page that shows the limits in force, as the reference server does."""
    return holder.listing.rlconfig if holder.listing is not None else ()

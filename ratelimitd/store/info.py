"""What a server says of itself, for metrics; a user without the permission gets what is allowed."""

from dataclasses import dataclass

from ratelimitd.errors import StoreError
from ratelimitd.store.connection import NodeClient


@dataclass(frozen=True, slots=True)
class StoreSample:
    """One look at a server; None where it did not say."""

    used_memory_bytes: int | None = None
    max_memory_bytes: int | None = None
    evicted_keys: int | None = None
    keys: int | None = None


async def sample(client: NodeClient, *, timeout_s: float) -> StoreSample:
    """Return what INFO and DBSIZE tell; nothing of it is needed to decide."""
    memory = await _info(client, "memory", timeout_s)
    stats = await _info(client, "stats", timeout_s)
    return StoreSample(
        used_memory_bytes=_number(memory, "used_memory"),
        max_memory_bytes=_number(memory, "maxmemory"),
        evicted_keys=_number(stats, "evicted_keys"),
        keys=await _key_count(client, timeout_s),
    )


def add(samples: list[StoreSample]) -> StoreSample:
    """Return the sum over the nodes of a Cluster."""
    return StoreSample(
        used_memory_bytes=_sum([one.used_memory_bytes for one in samples]),
        max_memory_bytes=_sum([one.max_memory_bytes for one in samples]),
        evicted_keys=_sum([one.evicted_keys for one in samples]),
        keys=_sum([one.keys for one in samples]),
    )


async def _info(client: NodeClient, section: str, timeout_s: float) -> dict[str, str]:
    try:
        raw = await client.run("INFO", section, timeout_s=timeout_s)
    except StoreError:
        return {}
    text = raw.decode(errors="replace") if isinstance(raw, bytes) else ""
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)


async def _key_count(client: NodeClient, timeout_s: float) -> int | None:
    try:
        count = await client.run("DBSIZE", timeout_s=timeout_s)
    except StoreError:
        return None
    return count if isinstance(count, int) else None


def _number(fields: dict[str, str], name: str) -> int | None:
    text = fields.get(name, "").strip()
    return int(text) if text.isdigit() else None


def _sum(values: list[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None

"""The secret that hashes sensitive values: one for all daemons of a store.

An operator gives it, or the store keeps it: whoever comes first writes its own, everybody reads it
back. Until the store was asked once a daemon uses its own random one, so a sensitive counter
starts anew at most once, when the store's is learnt.

Rules:
- With another secret the same value counts on another key; so the store's one wins, always.
- It expires SECRET_TTL_S after the last daemon that refreshed it.
"""

import secrets
from pathlib import Path
from typing import Protocol

from ratelimitd.errors import ConfigError, StoreError

HASH_SECRET_KEY = b"rl:1:hash-secret"
SECRET_BYTES = 32
MIN_GIVEN_BYTES = 16
MAX_GIVEN_BYTES = 4096
SECRET_TTL_S = 400 * 24 * 3600
REFRESH_INTERVAL_S = 30.0


class Commands(Protocol):
    """A client that runs one command where its key lives."""

    async def run_on(self, key: bytes, *arguments: bytes | str | int, timeout_s: float) -> object:
        """Run one command once and return its reply."""
        ...


def read_hash_secret_file(path: Path) -> bytes:
    """Return the secret that an operator gave; ConfigError if it cannot serve."""
    try:
        with path.open("rb") as file:
            secret = file.read(MAX_GIVEN_BYTES + 1).rstrip(b"\r\n")
    except OSError as error:
        raise ConfigError(f"hash secret file {path}: {error.strerror or 'unreadable'}") from error
    if not MIN_GIVEN_BYTES <= len(secret) <= MAX_GIVEN_BYTES:
        raise ConfigError(
            f"hash secret file {path}: {len(secret)} bytes;"
            f" it must hold {MIN_GIVEN_BYTES} to {MAX_GIVEN_BYTES}"
        )
    return secret


async def load_hash_secret(client: Commands, own: bytes, *, timeout_s: float) -> bytes:
    """Return the secret that the store keeps, after offering `own`; StoreError if it is away."""
    key = HASH_SECRET_KEY
    await client.run_on(key, "SET", key, own, "NX", "EX", SECRET_TTL_S, timeout_s=timeout_s)
    await client.run_on(key, "EXPIRE", key, SECRET_TTL_S, timeout_s=timeout_s)
    kept = await client.run_on(key, "GET", key, timeout_s=timeout_s)
    if isinstance(kept, bytes) and len(kept) >= MIN_GIVEN_BYTES:
        return kept
    # Evicted this moment, or somebody wrote nonsense there; the next refresh tries again.
    return own


class HashSecret:
    """The secret in force; `value` changes at most when the store is found to keep another one.

    `is_known` is False until the store was asked once: what is hashed before counts elsewhere.
    """

    def __init__(self, given: bytes | None = None) -> None:
        """A `given` secret is the operator's and final."""
        self.value = given or secrets.token_bytes(SECRET_BYTES)
        self.is_known = given is not None
        # Why it is not known, as of the last try; empty if nobody tried.
        self.problem = ""
        self._is_given = given is not None

    async def refresh(self, client: Commands, *, timeout_s: float) -> bool:
        """Keep the store's secret alive, adopt it if it is another; False if the store is away."""
        if self._is_given:
            return True
        try:
            kept = await load_hash_secret(client, self.value, timeout_s=timeout_s)
        except StoreError as error:
            self.problem = str(error)
            return False
        self.problem = ""
        self.is_known = True
        # The same object as long as it is the same secret: plans belong to it.
        if kept != self.value:
            self.value = kept
        return True

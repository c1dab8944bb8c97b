"""Entries as people may see them: a secret value is the first digits of its fingerprint."""

from ratelimitd.decisions.keys import fingerprint
from ratelimitd.policy.match import Match
from ratelimitd.policy.model import Domain

# Digits of a fingerprint that people are shown.
SHOWN_DIGITS = 8


def shown(
    entries: tuple[tuple[str, str], ...], secret_keys: frozenset[str], hash_secret: bytes
) -> tuple[tuple[str, str], ...]:
    """Return the entries with the values of secret keys as short fingerprints."""
    for key, _ in entries:
        if key in secret_keys:
            break
    else:
        return entries
    return tuple(
        (key, short_fingerprint(hash_secret, value)) if key in secret_keys else (key, value)
        for key, value in entries
    )


def shown_match(
    domain: Domain, entries: tuple[tuple[str, str], ...], matched: Match, hash_secret: bytes
) -> tuple[tuple[str, str], ...]:
    """Return the entries with secret values hidden, those of `sensitive` rules included."""
    for part in matched.parts:
        if part.is_secret:
            break
    else:
        return shown(entries, domain.hidden_keys, hash_secret)
    known = tuple(
        (part.key, short_fingerprint(hash_secret, part.value))
        if part.is_secret
        else (part.key, part.value)
        for part in matched.parts
    )
    return known + shown(entries[len(known) :], domain.hidden_keys, hash_secret)


def short_fingerprint(hash_secret: bytes, value: str) -> str:
    """Return what people see of a secret value."""
    return fingerprint(hash_secret, value)[:SHOWN_DIGITS]

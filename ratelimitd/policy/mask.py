"""How a secret text is shown where people read: 8 hex digits of its hash.

Unsalted, because a rule's name must be the same on every daemon and after every reload. 32 bits
tell rules apart and give no key away; who can guess the text can confirm the guess.
"""

import hashlib


def mask(secret: str) -> str:
    """Return `#` and 8 hex digits."""
    data = secret.encode(errors="surrogatepass")
    return f"#{hashlib.sha256(data).hexdigest()[:8]}"

"""The recipes of examples/recipes, run as they are but for ports and times."""

import base64
import hmac
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

from tests.support.envoy import AUTHZ_PORT
from tests.support.proxied import Proxied, proxied, write_policy

RECIPES = Path(__file__).parents[2] / "examples" / "recipes"
NAMES = sorted(path.name for path in RECIPES.iterdir())


@contextmanager
def running_recipe(
    name: str,
    store: str,
    directory: Path,
    *,
    policy: str = "",
    edits: Mapping[str, str] | None = None,
    envoy_edits: Mapping[str, str] | None = None,
    flags: Sequence[str] = (),
    authz_port: int = AUTHZ_PORT,
) -> Iterator[Proxied]:
    """Run a recipe's Envoy on its policy, or another one, until the block ends.

    `edits` are replacements in the policy's text, `envoy_edits` in the Envoy's; each must occur.
    """
    text = policy or (RECIPES / name / "policy.yaml").read_text("utf-8")
    for old, new in (edits or {}).items():
        assert old in text, f"{name} no longer has {old!r}"
        text = text.replace(old, new)
    where = write_policy(directory / "policy", text)
    config = RECIPES / name / "envoy.yaml"
    with proxied(
        config, where, store, directory, flags=flags, edits=envoy_edits, authz_port=authz_port
    ) as run:
        yield run


def token(name: str, **claims: object) -> str:
    """Return a token of these claims, signed with the key of the recipe's envoy.yaml."""
    found = re.search(r'"k": "([\w-]+)"', (RECIPES / name / "envoy.yaml").read_text("utf-8"))
    assert found
    key = base64.urlsafe_b64decode(found[1] + "=" * (-len(found[1]) % 4))
    signed = ".".join(
        _base64(json.dumps(part, separators=(",", ":")).encode())
        for part in ({"alg": "HS256"}, {"iss": "https://issuer.example", **claims})
    )
    return f"{signed}.{_base64(hmac.digest(key, signed.encode(), sha256))}"


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

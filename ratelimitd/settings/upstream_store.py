"""REDIS_URL and its siblings become one store URL.

Rules:
- A variable adds what the URL leaves open: credentials, TLS, that the store is a Cluster.
- Where the URL and a variable say different things there is a problem, and no guess: one of the
  two is what somebody relies on.
- No problem shows the text of a URL or of a password.
"""

from dataclasses import dataclass, field
from urllib.parse import quote, unquote

_SCHEMES = frozenset({"redis", "rediss", "redis+cluster", "rediss+cluster", "unix"})


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisVariables:
    """What is set of the reference server's variables; None where it is not."""

    url: str = field(repr=False)
    auth: str = field(default="", repr=False)
    socket_type: str = ""
    has_tls: bool | None = None
    is_cluster: bool | None = None


def to_store_url(given: RedisVariables) -> tuple[str, list[str]]:
    """Return the store URL, and one line for each contradiction."""
    scheme, separator, place = given.url.partition("://")
    if not separator:
        is_unix = given.socket_type == "unix" or (
            not given.socket_type and given.url.startswith("/")
        )
        scheme, place = ("unix", quote(given.url)) if is_unix else ("redis", given.url)
        # A bare address says nothing of TLS or of a Cluster: there is nothing to contradict.
        scheme = _add_tls(scheme) if given.has_tls else scheme
        scheme = _add_cluster(scheme) if given.is_cluster else scheme
        return f"{scheme}://{_login(given.auth)}{place}", _unix_problems(given, scheme)
    if scheme not in _SCHEMES:
        # The store's own parser says which ones there are.
        return given.url, []
    problems = _contradictions(given, scheme) + _unix_problems(given, scheme)
    scheme = _add_tls(scheme) if given.has_tls else scheme
    scheme = _add_cluster(scheme) if given.is_cluster else scheme
    place, problem = _with_login(place, given.auth)
    return f"{scheme}://{place}", [*problems, *([problem] if problem else [])]


def _contradictions(given: RedisVariables, scheme: str) -> list[str]:
    problems = []
    if given.has_tls is False and scheme.startswith("rediss"):
        problems.append(
            f"REDIS_TLS is false and REDIS_URL is {scheme}://, which is TLS; "
            "unset REDIS_TLS or write redis://"
        )
    if given.is_cluster is False and scheme.endswith("+cluster"):
        problems.append(
            f"REDIS_TYPE is SINGLE and REDIS_URL is {scheme}://; unset REDIS_TYPE or write "
            f"{scheme.removesuffix('+cluster')}://"
        )
    if given.socket_type and (given.socket_type == "unix") != (scheme == "unix"):
        problems.append(
            f"REDIS_SOCKET_TYPE is {given.socket_type} and REDIS_URL is {scheme}://; "
            "unset REDIS_SOCKET_TYPE, the URL says it"
        )
    return problems


def _unix_problems(given: RedisVariables, scheme: str) -> list[str]:
    problems = []
    if scheme == "unix" and given.has_tls:
        problems.append("REDIS_TLS is true and the store is a unix socket; unset REDIS_TLS")
    if scheme == "unix" and given.is_cluster:
        problems.append(
            "REDIS_TYPE is CLUSTER and the store is a unix socket; name the nodes as host:port"
        )
    return problems


def _add_tls(scheme: str) -> str:
    return scheme.replace("redis", "rediss") if scheme in {"redis", "redis+cluster"} else scheme


def _add_cluster(scheme: str) -> str:
    return f"{scheme}+cluster" if scheme in {"redis", "rediss"} else scheme


def _with_login(place: str, auth: str) -> tuple[str, str]:
    """Return `place` with the credentials of `auth`, and what is wrong with having both."""
    if not auth:
        return place, ""
    head, question, query = place.partition("?")
    user_info, at, rest = head.rpartition("@")
    if not at:
        return f"{_login(auth)}{place}", ""
    user, _, password = user_info.partition(":")
    auth_user, auth_password = _split(auth)
    is_other_user = bool(auth_user and user) and auth_user != unquote(user)
    if is_other_user or (password and auth_password != unquote(password)):
        return place, "REDIS_AUTH and REDIS_URL name different users or passwords; keep one"
    login = f"{user or quote(auth_user, safe='')}:{quote(auth_password, safe='')}@"
    return f"{login}{rest}{question}{query}", ""


def _login(auth: str) -> str:
    if not auth:
        return ""
    user, password = _split(auth)
    return f"{quote(user, safe='')}:{quote(password, safe='')}@"


def _split(auth: str) -> tuple[str, str]:
    """Return user and password: a lone word is the password."""
    user, colon, password = auth.partition(":")
    return (user, password) if colon else ("", auth)

"""What went wrong at the store, as errors of our taxonomy; error replies end here.

Rules:
- An error reply that Redis gives *instead of* running a script means "nothing spent"; any other
  one means "perhaps spent".
- No text holds a credential or an argument: servers quote arguments in some replies, so only
  known replies are told in words and of others only the code.
"""

import os
import re
import socket
import ssl

from ratelimitd.errors import StoreError, StoreReplyLost, StoreUnavailable
from ratelimitd.store.address import Endpoint
from ratelimitd.store.link import ConnectionLost, ErrorReply, NotRedis, NotWritten


class Redirected(StoreUnavailable):
    """A Cluster node does not serve this slot; `endpoint` does, once only if `is_ask`."""

    def __init__(self, message: str, endpoint: Endpoint, *, is_ask: bool) -> None:
        """Keep where the node pointed us."""
        super().__init__(message)
        self.endpoint = endpoint
        self.is_ask = is_ask


class ScriptMissing(StoreUnavailable):
    """The node does not know the script's SHA: load it and send again."""


class StillLoading(StoreUnavailable):
    """The node reads its data from disk: it will answer soon."""


# Codes that Redis answers without having run the command, and what an operator reads.
_NOT_RUN = {
    "WRONGPASS": "it refused our user or password; check the store's user and password",
    "NOAUTH": "it wants a password; give the store URL one, or a password file",
    "NOPERM": "our user may not do this; docs/store-permissions.md has the ACL it needs",
    "READONLY": "it is a read-only replica; point the store URL at the primary",
    "OOM": "it is out of memory and evicts nothing; raise maxmemory or set volatile-ttl",
    "MISCONF": "it refuses writes because its last snapshot failed; check its disk and log",
    "NOREPLICAS": "it refuses writes because too few replicas are connected",
    "BUSY": "it runs a script that takes too long",
    "CLUSTERDOWN": "its Cluster is down or this slot has no node",
    "MASTERDOWN": "it is a replica that lost its primary",
    "TRYAGAIN": "its Cluster is moving this slot; try again",
    "CROSSSLOT": "it is a Cluster: use redis+cluster:// (or rediss+cluster://)",
    "MAXCLIENTS": "it has too many clients; raise its maxclients",
    "NOCLUSTER": "it is no Cluster; use redis:// (or rediss://)",
    "DBINDEX": "it has no such database; check the number in the store URL",
}
_NOT_REDIS = "what answers there is no Redis or Valkey; check host and port"
_CODE = re.compile(r"[A-Z][A-Z_]{1,20}")
_KNOWN_TEXTS = {
    "max number of clients": "MAXCLIENTS",
    "DB index is out of range": "DBINDEX",
    "cluster support disabled": "NOCLUSTER",
    # A script that was not allowed to write says so inside its own error (Redis 6.2).
    **{f"-{code} ": code for code in ("OOM", "READONLY", "MISCONF", "NOREPLICAS", "NOPERM")},
}


def from_reply_error(error: ErrorReply, endpoint: Endpoint) -> StoreError:
    """Return what an error *reply* to one command means; the connection stays good."""
    where = f"store {endpoint}"
    code = _code_of(error)
    match code:
        case "NOSCRIPT":
            return ScriptMissing(f"{where}: it does not know the script")
        case "LOADING":
            return StillLoading(f"{where}: it is loading its data")
        case "MOVED" | "ASK":
            text = f"{where}: it is a Cluster: use redis+cluster:// (or rediss+cluster://)"
            target = _target_of(error, endpoint)
            if target is not None:
                return Redirected(text, target, is_ask=code == "ASK")
    if code in _NOT_RUN:
        return StoreUnavailable(f"{where}: {_NOT_RUN[code]}")
    return StoreReplyLost(f"{where}: the command failed there with {code or 'an error'}")


def is_read_only(error: ErrorReply) -> bool:
    """Tell whether a server says that it is a replica."""
    return _code_of(error) == "READONLY"


def is_refusing_clients(error: ErrorReply) -> bool:
    """Tell whether a server says that it has too many clients; then it closes the connection."""
    return _code_of(error) == "MAXCLIENTS"


def from_broken_connection(error: BaseException, endpoint: Endpoint) -> StoreError:
    """Return what it means that a connection broke after a command was written to it."""
    if isinstance(error, NotWritten):
        return StoreUnavailable(f"store {endpoint}: the connection was closed")
    if isinstance(error, NotRedis):
        return StoreReplyLost(f"store {endpoint}: {_NOT_REDIS}")
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLError):
            # A server refuses our certificate only after our side of the handshake is done.
            return StoreReplyLost(f"store {endpoint}: {_tls_problem(cause)}")
    return StoreReplyLost(f"store {endpoint}: the connection broke before the answer came")


def from_dial_error(error: BaseException, endpoint: Endpoint) -> StoreUnavailable:
    """Return why a connection could not be made: nothing was sent."""
    for cause in _causes(error):
        found = _dial_cause(cause, endpoint)
        if found is not None:
            return found
    return StoreUnavailable(f"store {endpoint}: the connection was closed while it was made")


def _dial_cause(cause: BaseException, endpoint: Endpoint) -> StoreUnavailable | None:
    """Return what one exception of the chain says by itself, or None if it says nothing."""
    problem: str | None = None
    match cause:
        case ssl.SSLCertVerificationError():
            problem = f"its certificate: {cause.verify_message}"
        case ssl.SSLError():
            problem = _tls_problem(cause)
        case ErrorReply():
            reply = from_reply_error(cause, endpoint)
            return reply if isinstance(reply, StoreUnavailable) else _handshake(reply)
        case socket.gaierror():
            problem = f"cannot look up its host: {cause.strerror}"
        case UnicodeError():
            problem = "cannot look up its host: not a host name"
        case NotRedis():
            problem = _NOT_REDIS
        case ConnectionLost():
            pass
        case OSError():
            problem = f"cannot connect: {_reason_of(cause)}"
        case _:
            pass
    return StoreUnavailable(f"store {endpoint}: {problem}") if problem else None


def _tls_problem(error: ssl.SSLError) -> str:
    return f"TLS: {(error.reason or 'failed').replace('_', ' ').lower()}"


def _reason_of(error: OSError) -> str:
    """Return the system's words; asyncio replaces them by the address that we name anyway."""
    if error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    return error.strerror or str(error)


def _handshake(reply: StoreError) -> StoreUnavailable:
    return StoreUnavailable(f"{reply} during the handshake")


def _code_of(error: ErrorReply) -> str:
    """Return the error code, or one of ours for an ERR that we know by its text."""
    text = str(error)
    for known, code in _KNOWN_TEXTS.items():
        if known in text:
            return code
    matched = _CODE.match(text)
    return matched.group() if matched else ""


def _target_of(error: ErrorReply, asked: Endpoint) -> Endpoint | None:
    """Return where `MOVED slot host:port` points; an empty host means "the node that you asked"."""
    host, _, port = str(error).split(" ")[-1].rpartition(":")
    return Endpoint(host=host or asked.host, port=int(port)) if port.isdigit() else None


def _causes(error: BaseException) -> list[BaseException]:
    """Return `error` and what it was raised from, innermost first."""
    chain: list[BaseException] = []
    seen: BaseException | None = error
    while seen is not None and len(chain) < 8:  # noqa: PLR2004 - bounded, whatever the chain
        chain.append(seen)
        seen = seen.__cause__ or seen.__context__
    return chain[::-1]

"""The one table of status codes: what each error of ours becomes in gRPC and in HTTP.

The HTTP codes are those of the reference server's /json, which answers 400 to whatever its
service could not decide. No gRPC library is needed to read it: workers have none.
"""

import secrets
from dataclasses import dataclass
from enum import IntEnum

from ratelimitd.errors import (
    Conflict,
    InvalidRequest,
    NoRoom,
    NotFound,
    NotPermitted,
    NotReady,
    StoreError,
    StoreOverloaded,
    UnknownService,
)


class GrpcStatus(IntEnum):
    """The gRPC status codes that errors of ours become, by their numbers on the wire."""

    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    ABORTED = 10
    INTERNAL = 13
    UNAVAILABLE = 14


@dataclass(frozen=True, slots=True)
class Answer:
    """An error as a caller sees it."""

    status: GrpcStatus
    http: int
    message: str


_TABLE: tuple[tuple[type[Exception], GrpcStatus, int], ...] = (
    (InvalidRequest, GrpcStatus.INVALID_ARGUMENT, 400),
    (NotPermitted, GrpcStatus.PERMISSION_DENIED, 403),
    (NotFound, GrpcStatus.NOT_FOUND, 404),
    (Conflict, GrpcStatus.ABORTED, 409),
    (NoRoom, GrpcStatus.RESOURCE_EXHAUSTED, 400),
    (UnknownService, GrpcStatus.NOT_FOUND, 400),
    (StoreOverloaded, GrpcStatus.RESOURCE_EXHAUSTED, 400),
    (StoreError, GrpcStatus.UNAVAILABLE, 400),
    (NotReady, GrpcStatus.UNAVAILABLE, 400),
    (TimeoutError, GrpcStatus.DEADLINE_EXCEEDED, 400),
)


def to_answer(error: Exception) -> Answer | None:
    """Return what `error` becomes, or None for one that nobody foresaw."""
    for kind, status, http in _TABLE:
        if isinstance(error, kind):
            return Answer(status, http, str(error) or status.name.lower().replace("_", " "))
    return None


def to_internal(error_id: str) -> Answer:
    """Return the answer to an unforeseen error; `error_id` finds it in the log."""
    return Answer(GrpcStatus.INTERNAL, 500, f"internal error {error_id}")


def new_error_id() -> str:
    """Return 12 hex digits that tell one unforeseen error from another."""
    return secrets.token_hex(6)

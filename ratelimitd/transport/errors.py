"""The one table of status codes: what each error of ours becomes in gRPC and in HTTP.

The HTTP codes are those of the reference server's /json, which answers 400 to whatever its
service could not decide.
"""

import secrets
from dataclasses import dataclass

import grpc

from ratelimitd.errors import InvalidRequest, NotReady, StoreError


@dataclass(frozen=True, slots=True)
class Answer:
    """An error as a caller sees it."""

    status: grpc.StatusCode
    http: int
    message: str


_TABLE: tuple[tuple[type[Exception], grpc.StatusCode, int], ...] = (
    (InvalidRequest, grpc.StatusCode.INVALID_ARGUMENT, 400),
    (StoreError, grpc.StatusCode.UNAVAILABLE, 400),
    (NotReady, grpc.StatusCode.UNAVAILABLE, 400),
    (TimeoutError, grpc.StatusCode.DEADLINE_EXCEEDED, 400),
)


def to_answer(error: Exception) -> Answer | None:
    """Return what `error` becomes, or None for one that nobody foresaw."""
    for kind, status, http in _TABLE:
        if isinstance(error, kind):
            return Answer(status, http, str(error) or status.name.lower().replace("_", " "))
    return None


def to_internal(error_id: str) -> Answer:
    """Return the answer to an unforeseen error; `error_id` finds it in the log."""
    return Answer(grpc.StatusCode.INTERNAL, 500, f"internal error {error_id}")


def new_error_id() -> str:
    """Return 12 hex digits that tell one unforeseen error from another."""
    return secrets.token_hex(6)

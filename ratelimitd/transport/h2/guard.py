"""Refuses the calls of peers that may not make them, before a service sees any."""

from collections.abc import Callable, Mapping
from typing import Final

from ratelimitd.errors import NotPermitted
from ratelimitd.services.gate import Gate, Peer
from ratelimitd.transport.errors import GrpcStatus
from ratelimitd.transport.h2.connection import Call
from ratelimitd.transport.h2.link import Link
from ratelimitd.transport.h2.unary import Method, ObserveCall

_DENIED: Final = GrpcStatus.PERMISSION_DENIED

OnCallsOf = Callable[[Link, list[Call], Peer | None], None]


class PeerGuard:
    """The `on_calls` of a server whose peers show certificates; hands on to `on_calls`."""

    def __init__(
        self,
        gate: Gate,
        methods: Mapping[bytes, Method],
        on_calls: OnCallsOf,
        observe_call: ObserveCall,
    ) -> None:
        """Ask `gate` about each of `methods`, by the full names that their paths are."""
        self._gate = gate
        self._on_calls = on_calls
        self._observe = observe_call
        self._names = {id(method): path[1:].decode() for path, method in methods.items()}

    def __call__(self, link: Link, calls: list[Call]) -> None:
        """Hand on those of the calls of one read that may be made."""
        if self._gate.is_open:
            self._on_calls(link, calls, None)
            return
        if link.peer is None:
            link.peer = self._gate.meet((link.peer_certificate or {}).get("subjectAltName", ()))
        admitted = [call for call in calls if self._admit(link, link.peer, call)]
        if admitted:
            self._on_calls(link, admitted, link.peer)

    def _admit(self, link: Link, peer: Peer, call: Call) -> bool:
        stream_id, head, _ = call
        try:
            peer.check_method(self._names[id(head.method)])
        except NotPermitted as error:
            link.fail(stream_id, _DENIED, str(error))
            self._observe(getattr(head.method, "name", ""), _DENIED.name, 0.0, 1)
            return False
        return True

"""Who may call what: the names in a client's certificate, by --grpc-client-san and callers.yaml.

Rules:
- With names only their certificates may call at all; with callers each may do what the file says.
  A call must pass both. Without either nobody is asked.
- A peer is looked up once for a connection, and again after the file was reloaded: connections
  that are open lose and gain rights with it.
- A refusal names the caller and what it asked for, never what it or anybody else may do.
"""

from collections.abc import Iterable
from typing import Final

from ratelimitd.errors import NotPermitted
from ratelimitd.policy.callers import CALLERS_FILE, DNS, URI, Caller, Callers, San, describe
from ratelimitd.policy.report import quote
from ratelimitd.services.policy_holder import PolicyHolder
from ratelimitd.telemetry.counters import Telemetry
from ratelimitd.telemetry.refused_callers import RefusedCaller, RefusedCallers

_KINDS_OF_NAMES: Final = (DNS, URI)
_NOBODY: Final = Callers((), {})


class Gate:
    """The one door of the gRPC port; `names` are those of --grpc-client-san."""

    def __init__(
        self, holder: PolicyHolder, telemetry: Telemetry, names: Iterable[str] = ()
    ) -> None:
        """Let in whom `holder` and `names` say, now and after each reload."""
        self.holder = holder
        self.telemetry = telemetry
        self.names = frozenset(names)
        self.refused = RefusedCallers(telemetry)

    @property
    def is_open(self) -> bool:
        """Whether everybody may call everything, so that nobody need be asked who they are."""
        return self.holder.callers is None and not self.names

    def meet(self, sans: Iterable[San]) -> "Peer":
        """Return the peer of a new connection whose certificate has `sans`."""
        return Peer(self, tuple(sans))


class Peer:
    """Who is behind one connection."""

    __slots__ = ("_caller", "_callers", "_gate", "_is_named", "_sans")

    def __init__(self, gate: Gate, sans: tuple[San, ...]) -> None:
        """Look nobody up yet."""
        self._gate = gate
        self._sans = sans
        self._is_named = not gate.names or any(
            kind in _KINDS_OF_NAMES and text in gate.names for kind, text in sans
        )
        self._callers: Callers = _NOBODY
        self._caller: Caller = _NOBODY.caller(())

    def check_method(self, method: str) -> None:
        """Raise NotPermitted unless the peer may call `method`, a full name."""
        gate = self._gate
        if not self._is_named:
            raise self._refuse_name()
        callers = gate.holder.callers
        if callers is None:
            return
        domains = self._look_up(callers).domains(method)
        if domains is None or domains:
            return
        raise self._refuse_method(method)

    def check_domain(self, method: str, domain: str) -> None:
        """Raise NotPermitted unless the peer may name `domain` to `method`."""
        callers = self._gate.holder.callers
        if callers is None:
            return
        caller = self._look_up(callers)
        domains = caller.domains(method)
        if domains is None or domain in domains:
            return
        message = f"{caller.name} may not use the domain {quote(domain)} ({CALLERS_FILE})"
        raise self._gate.refused.refuse(RefusedCaller.DOMAIN, caller.name, message)

    def _look_up(self, callers: Callers) -> Caller:
        if callers is not self._callers:
            self._callers, self._caller = callers, callers.caller(self._sans)
        return self._caller

    def _refuse_name(self) -> NotPermitted:
        name = describe(san for san in self._sans if san[0] in _KINDS_OF_NAMES)
        message = f"--grpc-client-san does not list {name}"
        if not name:
            message = "the certificate has no name of a kind that --grpc-client-san lists"
        return self._gate.refused.refuse(RefusedCaller.NAME, name, message)

    def _refuse_method(self, method: str) -> NotPermitted:
        caller, refuse = self._caller, self._gate.refused.refuse
        if caller.is_known:
            message = f"{caller.name} may not call {method} ({CALLERS_FILE})"
            return refuse(RefusedCaller.METHOD, caller.name, message)
        message = f"{CALLERS_FILE} has no entry for {caller.name}"
        if not caller.name:
            message = f"the certificate has no name of a kind that {CALLERS_FILE} lists"
        return refuse(RefusedCaller.UNKNOWN, caller.name, message)

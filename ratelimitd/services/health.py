"""Whether the daemon should get traffic, and why not.

A dead store does not make it unhealthy by default: a balancer would take the daemon out, and the
failure policy of the rules could never act.
"""

from dataclasses import dataclass

from ratelimitd.services.policy_holder import PolicyHolder

# The whole server; the reference server's name; and the service itself, as gRPC clients ask.
SERVICE_NAMES = ("", "ratelimit", "envoy.service.ratelimit.v3.RateLimitService")


@dataclass(slots=True, kw_only=True)
class HealthState:
    """What health depends on; the composition root keeps it true.

    `needs_policy` and `needs_store` are switches of the operator; `store_note` says what is wrong
    with a store that answers.
    """

    holder: PolicyHolder
    needs_policy: bool = False
    needs_store: bool = False
    is_store_up: bool = False
    store_note: str = ""
    is_draining: bool = False

    def problems(self) -> tuple[str, ...]:
        """Return why the daemon should get no traffic; empty when it should."""
        found = []
        if self.is_draining:
            found.append("draining: the daemon is stopping")
        if self.needs_policy and (self.holder.policy is None or not self.holder.policy.domains):
            found.append("policy: no domain is loaded")
        if self.needs_store and not self.is_store_up:
            found.append("store: not reachable")
        return tuple(found)

    @property
    def is_serving(self) -> bool:
        """Say whether there is no problem."""
        return not self.problems()

    def details(self) -> dict[str, str]:
        """Return every component in words, for people; problems or not."""
        policy = self.holder.policy
        if self.holder.load_error:
            told = f"invalid, serving {policy.revision}" if policy else "invalid, none loaded"
        else:
            told = f"ok, {policy.revision}" if policy else "none loaded"
        return {
            "policy": told,
            "store": (self.store_note or "ok") if self.is_store_up else "unreachable",
            "daemon": "draining" if self.is_draining else "ok",
        }

"""What the calls about subjects and blocks share: may they be answered, and what do they ask."""

from collections.abc import Callable
from dataclasses import dataclass

from ratelimitd.errors import NotPermitted
from ratelimitd.services.domain_facts import DomainFacts, FactsOfDomains
from ratelimitd.services.ratelimit import RateLimitService
from ratelimitd.store.subjects import SubjectStore


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryAccess:
    """The registry, seen under the policy in force; `now_us` is a wall clock.

    `is_private` says that nobody can call who is not on this machine.
    """

    ratelimit: RateLimitService
    registry: SubjectStore
    domains: FactsOfDomains
    now_us: Callable[[], int]
    is_private: bool

    def facts(self, domain: str) -> DomainFacts:
        """Return the facts of a domain. Raises NotPermitted, NotReady, InvalidRequest."""
        if not self.is_private:
            raise NotPermitted(
                "subjects and blocks are changed and shown on a loopback address or a unix socket"
                " only, because nobody is asked here who they are; see --admin"
            )
        return self.domains.of(domain)

    def hash_secret(self) -> bytes:
        """Return what fingerprints are made with; StoreUnavailable while it is not known."""
        secret = self.ratelimit.store.hash_secret
        if secret is None:
            raise self.ratelimit.not_usable()
        return secret

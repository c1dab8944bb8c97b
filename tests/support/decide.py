"""From YAML text to a verdict without a server: compile, plan, and answer with the model store."""

from collections.abc import Sequence

from ratelimitd.decisions.fold import fold
from ratelimitd.decisions.options import DecisionOptions
from ratelimitd.decisions.plan import Plan
from ratelimitd.decisions.planning import make_plan
from ratelimitd.decisions.request import Descriptor, Override, Request
from ratelimitd.decisions.verdict import Verdict
from ratelimitd.policy.compile import CompileOptions, compile_policy
from ratelimitd.policy.model import Policy
from tests.model.limits import ModelStore

SECRET = b"0123456789abcdef0123456789abcdef"
NOW_US = 1_790_000_000_000_000


def policy_of(text: str, options: CompileOptions | None = None) -> Policy:
    return compile_policy({"api.yaml": text}, options).policy


def descriptor_of(
    *entries: tuple[str, str],
    override: Override | None = None,
    hits: int | None = None,
    is_refund: bool = False,
) -> Descriptor:
    return Descriptor(entries, override, hits, is_refund)


def request_of(*descriptors: Descriptor, domain: str = "api", hits: int = 0) -> Request:
    return Request(domain, descriptors, hits)


class Decider:
    """One policy over one model store; each call is one request."""

    def __init__(
        self,
        text: str,
        options: DecisionOptions | None = None,
        compile_options: CompileOptions | None = None,
    ) -> None:
        self.policy = policy_of(text, compile_options)
        self.options = options or DecisionOptions()
        self.model = ModelStore()

    def plan(self, request: Request) -> Plan:
        return make_plan(self.policy, request, self.options, SECRET)

    def decide(self, request: Request, now_us: int = NOW_US) -> Verdict:
        plan = self.plan(request)
        replies = self.model.check([plan], now_us) if plan.checks else [None]
        return fold(plan, replies[0], self.options)

    def codes(self, *requests: Request) -> Sequence[str]:
        return [self.decide(request).code.name for request in requests]

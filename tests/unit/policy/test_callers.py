import pytest

from ratelimitd.policy.callers import DNS, EMAIL, MAX_NAMES_TOLD, URI, Caller, Callers, San
from ratelimitd.policy.compile import compile_policy

HIT = "envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"
CHECK = "grpc.health.v1.Health/Check"
EDGE = (URI, "spiffe://prod.example/ns/edge/sa/envoy")
FILE = f"""
callers:
  - san: {EDGE[1]}
    domains: [shop, login]
    methods: [{HIT}]
  - san: [Batch.Internal, ops@Example.com]
    domains: [batch]
    methods: [{HIT}, {CHECK}]
  - san: monitor.internal
    domains: [monitor]
    methods: all
  - san: urn:admin
    domains: all
    methods: all
"""


def callers_of(text: str) -> Callers:
    callers = compile_policy({"callers.yaml": text}).callers
    assert callers is not None
    return callers


def domains(caller: Caller, method: str) -> set[str] | None:
    found = caller.domains(method)
    return None if found is None else set(found)


def caller_of(*sans: San) -> Caller:
    return callers_of(FILE).caller(sans)


def test_caller_may_use_its_domains_by_its_methods_and_no_others() -> None:
    caller = caller_of(EDGE)

    assert domains(caller, HIT) == {"shop", "login"}
    assert domains(caller, CHECK) == set()
    assert (caller.is_known, caller.name) == (True, f"`{EDGE[1]}`")


def test_all_means_every_method_and_every_domain() -> None:
    assert domains(caller_of((DNS, "monitor.internal")), "any.Service/Method") == {"monitor"}
    assert caller_of((URI, "urn:admin")).domains("any.Service/Method") is None


@pytest.mark.parametrize(
    ("san", "is_known"),
    [
        ((DNS, "batch.internal"), True),
        ((DNS, "BATCH.internal"), True),
        ((EMAIL, "ops@example.COM"), True),
        ((EMAIL, "Ops@example.com"), False),
        ((URI, "SPIFFE://prod.example/ns/edge/sa/envoy"), False),
        ((URI, EDGE[1] + "/"), False),
        ((URI, EDGE[1] + "2"), False),
        ((DNS, "batch.internal.evil.example"), False),
        ((DNS, "batch.internal\0.evil.example"), False),
        ((DNS, "*.internal"), False),
        # A name of another kind is another name.
        ((DNS, EDGE[1]), False),
        ((DNS, "ops@example.com"), False),
        ((URI, "batch.internal"), False),
        (("IP Address", "batch.internal"), False),
        (("DirName", "batch.internal"), False),
    ],
)
def test_names_are_compared_whole_and_by_their_kind(san: San, is_known: bool) -> None:
    caller = caller_of(san)

    assert caller.is_known == is_known
    assert bool(caller.domains(HIT)) == is_known


def test_certificate_with_several_names_may_do_what_any_of_them_may() -> None:
    both = caller_of(EDGE, (DNS, "batch.internal"), (DNS, "stranger"))
    monitored = caller_of((DNS, "monitor.internal"), (DNS, "batch.internal"))
    admin = caller_of((URI, "urn:admin"), EDGE)

    assert domains(both, HIT) == {"shop", "login", "batch"}
    # What one may by another method adds nothing here.
    assert domains(both, CHECK) == {"batch"}
    assert domains(monitored, HIT) == {"monitor", "batch"}
    assert domains(monitored, "other.Service/Method") == {"monitor"}
    assert admin.domains(HIT) is None
    assert both.name == f"`{EDGE[1]}`, `batch.internal`"


def test_stranger_is_named_by_a_bounded_part_of_its_certificate() -> None:
    many = [(DNS, f"host{number}.{'x' * 300}") for number in range(100)]

    caller = caller_of(*many)

    assert not caller.is_known
    assert caller.name.startswith("`host0.xxx")
    assert caller.name.endswith(f"...` and {100 - MAX_NAMES_TOLD} more")
    assert len(caller.name) < 1_000
    assert caller_of(("DirName", "x")).name == ""


def test_callers_with_the_same_rights_share_them() -> None:
    callers = callers_of(FILE)

    one, other = (callers.caller([(DNS, "batch.internal")]) for _ in range(2))

    assert one.domains(HIT) is other.domains(HIT)

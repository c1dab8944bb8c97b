"""The table of cases: what is asked, over how many connections, of which server."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch

from bench.load.spec import Body, Draw, LoadSpec

FLEET_CONNECTIONS = 3_200
HOLD_CONNECTIONS = 16_384
# A fleet's gateways call between once and five times a second, in this proportion at any load.
FLEET_WEIGHTS = (1, 5)
# Few enough for the daemon to know all of them before its memory is divided by connections.
FLEET_KEYS = 10_000
FLEET_MEAN_RATE = 3.0 * FLEET_CONNECTIONS
# The case that others are compared with.
MAIN = "fixed_window"
YARDSTICK = "grpcio"
# Values of --data-plane; without that flag a daemon has grpcio only.
H2, GRPCIO = "h2", "grpcio"
BARE_KEYS = 1_000
BARE_BATCH = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSpec:
    """How the daemon is started; a `tag` asks for a fresh one."""

    data_plane: str = H2
    workers: int = 1
    has_tls: bool = False
    on_cluster: bool = False
    has_deny_cache: bool = False
    tag: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One load on one server; `peak_of` makes it open: `share` of that case's best rate."""

    name: str
    section: str
    about: str
    server: ServerSpec = field(default_factory=ServerSpec)
    connections: int = 8
    in_flight: int = 64
    peak_of: str = ""
    share: float = 0.0
    rate: float = 0.0
    weights: tuple[int, int] = (1, 1)
    spreads: bool = False
    body: Body = Body.LIMITS
    descriptors: int = 1
    keys: int = 100_000
    draw: Draw = Draw.ZIPF
    traced: bool = False
    runs: int = 0  # 0: as the command says
    has_h2load: bool = False

    @property
    def is_open(self) -> bool:
        """Tell whether calls are sent by a schedule."""
        return bool(self.peak_of or self.rate)

    def to_spec(
        self, address: str, *, seconds: float, seed: int, rate: float = 0.0, ca: str = ""
    ) -> LoadSpec:
        """Return what one load process does for it."""
        return LoadSpec(
            address=address,
            seconds=seconds,
            seed=seed,
            connections=self.connections,
            in_flight=self.in_flight,
            rate=rate,
            weights=self.weights,
            spreads=self.spreads,
            body=self.body,
            descriptors=self.descriptors,
            keys=self.keys,
            draw=self.draw,
            traced=self.traced,
            ca=ca,
        )


@dataclass(frozen=True, slots=True)
class BareCase:
    """One way of asking the store itself."""

    name: str
    about: str
    batch: int
    pipelined: int


def select(only: str) -> tuple[list[BareCase], list[Case]]:
    """Return the cases whose names match one of the comma-separated patterns; all for ""."""
    patterns = [pattern.strip() for pattern in only.split(",") if pattern.strip()] or ["*"]

    def is_wanted(name: str) -> bool:
        return any(fnmatch(name, pattern) for pattern in patterns)

    bare = [case for case in BARE if is_wanted(case.name)]
    cases = [case for case in CASES if is_wanted(case.name)]
    if not bare and not cases:
        names = ", ".join(name for name, _ in listing())
        raise SystemExit(f"--only {only}: no such case; there are {names}")
    return bare, cases


def listing() -> list[tuple[str, str]]:
    """Return the name of each case and what it is."""
    bare = [(case.name, case.about) for case in BARE]
    return bare + [(case.name, case.about) for case in CASES]


BARE = (
    BareCase("bare_one", "one EVALSHA per decision, one at a time", 1, 1),
    BareCase("bare_pipeline", f"one EVALSHA per decision, {BARE_BATCH} in a write", 1, BARE_BATCH),
    BareCase("bare_batch", f"one EVALSHA for {BARE_BATCH} decisions", BARE_BATCH, 1),
)

_TRANSPORT, _LOAD, _KEYS = "The transport alone", "Calls in flight", "Keys"
_SHAPE, _OPEN, _FLEET = "What is asked", "Open loop: latency from the due instant", "A fleet"
_SERVER = "Other servers, same bodies"
_COUNT = Case(name=MAIN, section=_LOAD, about="64 in flight, 100 k keys, zipf")


def _like_main(name: str, section: str, about: str, **changes: object) -> Case:
    values = {"name": name, "section": section, "about": about, **changes}
    return replace(_COUNT, **values)  # type: ignore[arg-type]  # the fields of Case, by name


def _fleet_cases() -> list[Case]:
    server = ServerSpec(tag="fleet")
    fleet = _like_main(
        "fleet_peak",
        _FLEET,
        "closed loop, each next call on the next connection",
        server=server,
        connections=FLEET_CONNECTIONS,
        keys=FLEET_KEYS,
        weights=FLEET_WEIGHTS,
        spreads=True,
    )
    shares = [
        replace(
            fleet,
            name=f"fleet_{percent}",
            about=f"{percent} % of fleet_peak, uneven connections",
            peak_of=fleet.name,
            share=percent / 100,
        )
        for percent in (10, 50, 80)
    ]
    steady = replace(
        fleet,
        name="fleet_steady",
        about="1 to 5 calls/s on each connection",
        rate=FLEET_MEAN_RATE,
        peak_of=fleet.name,
        share=0.8,
    )
    hold = replace(
        shares[0],
        name="fleet_hold",
        about=f"{HOLD_CONNECTIONS:,} connections, 10 % of fleet_peak",
        server=ServerSpec(tag="hold"),
        connections=HOLD_CONNECTIONS,
        runs=1,
    )
    return [fleet, *shares, steady, hold]


CASES: Sequence[Case] = (
    _like_main(
        "echo", _TRANSPORT, "health check, no store", body=Body.HEALTH, keys=1, has_h2load=True
    ),
    _like_main("single_key", _TRANSPORT, "one key", keys=1, has_h2load=True),
    _like_main("in_flight_1", _LOAD, "1 in flight", connections=1, in_flight=1),
    _like_main("in_flight_8", _LOAD, "8 in flight", in_flight=8),
    _COUNT,
    _like_main("in_flight_512", _LOAD, "512 in flight", in_flight=512),
    _like_main("descriptors_3", _SHAPE, "3 descriptors, 3 counters", descriptors=3),
    _like_main("descriptors_10", _SHAPE, "10 descriptors, 10 counters", descriptors=10),
    _like_main("traceparent", _SHAPE, "a fresh traceparent in every call", traced=True),
    _like_main("refused", _SHAPE, "all denied, by the store", body=Body.DENIED, keys=100),
    _like_main("gcra", _SHAPE, "gcra instead of fixed_window", body=Body.GCRA),
    _like_main("sliding", _SHAPE, "sliding_window instead of fixed_window", body=Body.SLIDING),
    _like_main(
        "key_tier_global", _SHAPE, "limits of key, tier and all, together", body=Body.SCOPES
    ),
    _like_main("open_50", _OPEN, f"half of {MAIN}'s best rate", peak_of=MAIN, share=0.5, runs=5),
    _like_main("keys_1k", _KEYS, "1 k keys, zipf", keys=1_000),
    _like_main("keys_1k_uniform", _KEYS, "1 k keys, uniform", keys=1_000, draw=Draw.UNIFORM),
    _like_main("keys_100k_uniform", _KEYS, "100 k keys, uniform", draw=Draw.UNIFORM),
    _like_main("keys_1m", _KEYS, "1 M keys, zipf", keys=1_000_000),
    _like_main("keys_1m_uniform", _KEYS, "1 M keys, uniform", keys=1_000_000, draw=Draw.UNIFORM),
    *_fleet_cases(),
    _like_main(
        "denied",
        _SHAPE,
        "all denied, known from the call before: --deny-cache-bytes",
        body=Body.DENIED,
        keys=100,
        server=ServerSpec(has_deny_cache=True),
    ),
    _like_main("workers_2", _SERVER, "2 workers", server=ServerSpec(workers=2)),
    _like_main("tls", _SERVER, "TLS", server=ServerSpec(has_tls=True)),
    _like_main("cluster", _SERVER, "Cluster of 3 nodes", server=ServerSpec(on_cluster=True)),
    _like_main(YARDSTICK, _SERVER, "--data-plane grpcio", server=ServerSpec(data_plane=GRPCIO)),
)

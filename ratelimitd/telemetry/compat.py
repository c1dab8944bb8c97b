"""The reference server's Prometheus names, so that its dashboards survive the switch.

Its statistics are dotted names, and its default mapping turns
`<domain>.<key of level 1>.<key of level 2>...` into labels by splitting at every dot:

- one level has the labels `domain` and `key1` and no `key2`;
- levels below the second are dropped, and what they counted is summed;
- a dot in a domain or a value is a border like any other: domain `my.api` with the rule `path_a`
  is `domain="my", key1="api", key2="path_a"`; only the dots of an IPv4 address are kept together,
  as underscores, and `:` and `|` become underscores everywhere.

Statistics of unknown domains and of the local cache have no mapping there, and none here.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache

from ratelimitd.telemetry.counters import Telemetry
from ratelimitd.telemetry.series import Histogram, RuleSeries

_IPV4 = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}")
_REPLACED = str.maketrans(":|", "__")
_ESCAPED = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})

# Labels of a rule are the same at each scrape; more rules than this only take longer.
CACHED_LABELS = 8_192

# The one method that the reference server has; its HTTP facade is not counted there.
_METHOD = "ShouldRateLimit"
_STORE_CODES = frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED"})

_RULE_STATS: tuple[tuple[str, str, Callable[[RuleSeries], int]], ...] = (
    ("total_hits", "Cost of all requests that reached the rule.", lambda row: row.hits),
    ("over_limit", "Cost above the limit.", lambda row: row.over_hits),
    (
        "near_limit",
        "Cost above the near-limit ratio, still within the limit.",
        lambda row: row.near_hits,
    ),
    ("within_limit", "Cost within the limit.", lambda row: row.within_hits),
    ("shadow_mode", "Cost above the limit of a rule in shadow mode.", lambda row: row.shadow_hits),
)

Labels = tuple[tuple[str, str], ...]


def render(telemetry: Telemetry) -> bytes:
    """Return the reference server's families in the text format 0.0.4."""
    return "".join(_lines(telemetry)).encode()


@lru_cache(maxsize=CACHED_LABELS)
def rule_labels(domain: str, name: str) -> Labels:
    """Return the labels under which the reference server shows a rule."""
    stat = _IPV4.sub(
        lambda address: address.group().replace(".", "_"),
        f"{domain}.{name}".translate(_REPLACED),
    )
    return tuple(zip(("domain", "key1", "key2"), stat.split("."), strict=False))


def _lines(telemetry: Telemetry) -> Iterator[str]:
    """Yield every line of every family."""
    rows = telemetry.rules.snapshot()
    for stat, help_text, value_of in _RULE_STATS:
        sums: Counter[Labels] = Counter()
        for row in rows:
            sums[rule_labels(row.domain, row.name)] += value_of(row)
        yield from _counter(f"ratelimit_service_rate_limit_{stat}", help_text, sums)
    series = telemetry.methods.get(_METHOD)
    codes = dict(series.codes) if series else {}
    method = (("grpc_method", _METHOD),)
    yield from _counter("ratelimit_service_total_requests", "Calls.", {method: sum(codes.values())})
    yield from _counter(
        "ratelimit_service_should_rate_limit_error",
        "Calls that failed: for want of the store, or for another reason.",
        _errors(codes),
    )
    if series:
        yield from _histogram("ratelimit_service_response_time_seconds", method, series.seconds)
    yield from _counter(
        "ratelimit_service_config_load_success",
        "Policies put in force.",
        {(): telemetry.policy.successes},
    )
    yield from _counter(
        "ratelimit_service_config_load_error", "Policies refused.", {(): telemetry.policy.errors}
    )


def _errors(codes: Mapping[str, int]) -> Mapping[Labels, int]:
    """Sort failed calls into the two kinds that the reference server knows."""
    store = sum(count for code, count in codes.items() if code in _STORE_CODES)
    failed = sum(count for code, count in codes.items() if code != "OK")
    return {
        (("err_type", "redis_error"),): store,
        (("err_type", "service_error"),): failed - store,
    }


def _counter(name: str, help_text: str, samples: Mapping[Labels, int]) -> Iterator[str]:
    """Yield one counter; unlike ours its name does not end in `_total`."""
    yield f"# HELP {name} {help_text}\n# TYPE {name} counter\n"
    for labels, value in samples.items():
        yield f"{name}{_format(labels)} {value}\n"


def _histogram(name: str, labels: Labels, values: Histogram) -> Iterator[str]:
    """Yield one histogram with one set of labels."""
    yield f"# HELP {name} How long calls took.\n# TYPE {name} histogram\n"
    for bound, count in values.cumulative():
        yield f"{name}_bucket{_format((*labels, ('le', bound)))} {count}\n"
    yield f"{name}_sum{_format(labels)} {values.total}\n"
    yield f"{name}_count{_format(labels)} {values.count}\n"


@lru_cache(maxsize=CACHED_LABELS)
def _format(labels: Labels) -> str:
    """Return `labels` between braces, escaped; nothing for none."""
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{value.translate(_ESCAPED)}"' for name, value in labels) + "}"

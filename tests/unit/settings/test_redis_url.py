import pytest

from ratelimitd.errors import ConfigError
from ratelimitd.settings.load import load_settings
from ratelimitd.settings.model import Settings
from ratelimitd.store.address import StoreAddress, StoreKind, parse_address

FLAGS = {"policy": "/p"}


def load(**environ: str) -> Settings:
    return load_settings(FLAGS, environ)


def problem(**environ: str) -> str:
    with pytest.raises(ConfigError) as raised:
        load(**environ)
    (line,) = str(raised.value).splitlines()
    return line


@pytest.mark.parametrize(
    ("environ", "url"),
    [
        (
            {"REDIS_URL": "redis://h:1", "REDIS_TLS": "true", "REDIS_AUTH": "pw"},
            "rediss://:pw@h:1",
        ),
        ({"REDIS_URL": "rediss://h:1/2", "REDIS_AUTH": "bob:p/w"}, "rediss://bob:p%2Fw@h:1/2"),
        ({"REDIS_URL": "redis://bob@h:1", "REDIS_AUTH": "pw"}, "redis://bob:pw@h:1"),
        ({"REDIS_URL": "redis://bob:pw@h:1", "REDIS_AUTH": "bob:pw"}, "redis://bob:pw@h:1"),
        ({"REDIS_URL": "redis://:p%40@h:1", "REDIS_AUTH": "p@"}, "redis://:p%40@h:1"),
        ({"REDIS_URL": "redis://a:1,b:2", "REDIS_TYPE": "CLUSTER"}, "redis+cluster://a:1,b:2"),
        (
            {"REDIS_URL": "redis://a:1", "REDIS_TYPE": "cluster", "REDIS_TLS": "1"},
            "rediss+cluster://a:1",
        ),
        ({"REDIS_URL": "rediss+cluster://a:1", "REDIS_TLS": "1"}, "rediss+cluster://a:1"),
        ({"REDIS_URL": "unix:///r.sock?db=3", "REDIS_AUTH": "pw"}, "unix://:pw@/r.sock?db=3"),
        ({"REDIS_URL": "redis://h:1?db=4", "REDIS_AUTH": "pw"}, "redis://:pw@h:1?db=4"),
        ({"REDIS_URL": "redis://h:1", "REDIS_TLS": "false", "REDIS_TYPE": "single"}, "redis://h:1"),
    ],
)
def test_redis_url_with_a_scheme_takes_what_its_siblings_add(
    environ: dict[str, str], url: str
) -> None:
    found = load(**environ)

    assert found.store.address == parse_address(url)
    assert found.warnings == ()


def test_redis_url_with_tls_has_the_files_for_tls() -> None:
    def address(url: str) -> StoreAddress:
        return load(REDIS_URL=url, REDIS_TLS_CACERT="/ca").store.address

    tls = address("rediss://h:1").tls

    assert tls is not None
    assert str(tls.ca_file) == "/ca"
    assert address("rediss+cluster://h:1").kind is StoreKind.CLUSTER


@pytest.mark.parametrize(
    ("environ", "line"),
    [
        ({"REDIS_URL": "rediss://h", "REDIS_TLS": "false"}, "REDIS_TLS is false and REDIS_URL is"),
        (
            {"REDIS_URL": "redis+cluster://h", "REDIS_TYPE": "SINGLE"},
            "REDIS_TYPE is SINGLE and REDIS_URL is redis+cluster://",
        ),
        (
            {"REDIS_URL": "redis://h", "REDIS_SOCKET_TYPE": "unix"},
            "REDIS_SOCKET_TYPE is unix and REDIS_URL is redis://",
        ),
        (
            {"REDIS_URL": "unix:///r", "REDIS_SOCKET_TYPE": "tcp"},
            "REDIS_SOCKET_TYPE is tcp and REDIS_URL is unix://",
        ),
        ({"REDIS_URL": "unix:///r", "REDIS_TLS": "true"}, "REDIS_TLS is true and the store is a"),
        ({"REDIS_URL": "/r.sock", "REDIS_TLS": "true"}, "REDIS_TLS is true and the store is a"),
        ({"REDIS_URL": "/r.sock", "REDIS_TYPE": "CLUSTER"}, "REDIS_TYPE is CLUSTER and the store"),
        (
            {"REDIS_URL": "redis://:hunter2@h", "REDIS_AUTH": "hunter3"},
            "REDIS_AUTH and REDIS_URL name different",
        ),
        (
            {"REDIS_URL": "redis://bob@h", "REDIS_AUTH": "eve:hunter3"},
            "REDIS_AUTH and REDIS_URL name different",
        ),
    ],
)
def test_redis_url_that_its_siblings_contradict_is_refused(
    environ: dict[str, str], line: str
) -> None:
    found = problem(**environ)

    assert line in found
    assert "hunter" not in found


def test_tls_files_of_a_store_without_tls_are_a_warning() -> None:
    (warning,) = load(REDIS_URL="redis://h", REDIS_TLS_CACERT="/ca").warnings

    assert warning.startswith("REDIS_TLS_CACERT is set but REDIS_TLS is not true")


def test_redis_variables_beside_another_store_are_named_once_each() -> None:
    environ = {"REDIS_AUTH": "hunter2", "REDIS_TYPE": "CLUSTER", "REDIS_TLS": "false"}

    found = load_settings({**FLAGS, "store": "redis://other"}, environ)

    assert found.warnings == (
        "REDIS_AUTH has no effect: the store is named by --store",
        "REDIS_TYPE has no effect: the store is named by --store",
    )

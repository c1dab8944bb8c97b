"""Which server answers on the gRPC port: a test that asks runs once on each.

A module whose tests call that port says `pytestmark = pytest.mark.usefixtures("data_plane")`;
daemons that such a test starts are told by the variable that an operator would set.
"""

import pytest

PLANES = ("grpcio", "h2")
VARIABLE = "RATELIMITD_DATA_PLANE"


@pytest.fixture(params=PLANES)
def data_plane(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Give the name of each in turn; daemons started meanwhile use it."""
    plane: str = request.param
    monkeypatch.setenv(VARIABLE, plane)
    return plane

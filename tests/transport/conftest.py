"""Each of the two servers of the gRPC port, in the test's own process."""

import pytest

from tests.transport.support import Serve, serving, serving_h2


@pytest.fixture
def serve(data_plane: str) -> Serve:
    """Give `serving` of each server in turn."""
    return serving if data_plane == "grpcio" else serving_h2

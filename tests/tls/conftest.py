"""Certificates for the tests of the fast TLS engine."""

import pytest

from support.certificates import Certificates


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """The certificates of the run."""
    return Certificates(tmp_path_factory.mktemp("certificates"))

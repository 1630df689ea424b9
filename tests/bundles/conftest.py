"""What the tests of the bundles share."""

import pytest
from warm_python import WarmPython


@pytest.fixture(scope="session")
def python(tmp_path_factory):
    """Commands as in a process of their own."""
    with WarmPython(tmp_path_factory.mktemp("warm_python")) as warm:
        yield warm

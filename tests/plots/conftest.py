"""A small data set for the results that are drawn."""

import pytest

from studies.problems import images
from tests.studies.small_runs import some_digits


@pytest.fixture(scope="session")
def digits() -> images.Sets:
    return some_digits()

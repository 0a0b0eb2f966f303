"""In these tests, arrays are compared with the annotations of the functions that get them."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def checked(checked_annotations):
    pass

"""What the tests of the page share."""

from collections.abc import Iterator
from typing import Any

import pytest

from browsing import chromium_running


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with chromium_running() as browser:
        yield browser

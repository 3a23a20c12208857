from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.backends.cpu.compiled import Workshop


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    workshop = Workshop(tmp_path_factory.mktemp("graphs"))
    yield workshop
    workshop.close()

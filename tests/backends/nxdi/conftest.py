from __future__ import annotations

from pathlib import Path

import pytest

from tests.backends.nxdi.sites import Site
from tests.doubles.environments import make_neuron_environment


@pytest.fixture(scope="session")
def nxdi_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_neuron_environment(tmp_path_factory.mktemp("nxdi"), "nxdi")


@pytest.fixture
def site(nxdi_python: Path, tmp_path: Path) -> Site:
    return Site(nxdi_python, tmp_path)

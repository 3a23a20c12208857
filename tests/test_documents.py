"""What the documents point to exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from neuron_artifacts.cli._app import COMMANDS
from neuron_artifacts.spec import resolve_spec
from tests.models import ROOT

DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("*/*.md"), *ROOT.glob("examples/*/*.md")]
DOCUMENTS = [path for path in DOCUMENTS if not path.relative_to(ROOT).parts[0].startswith(".")]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_and_named_files_exist(path: Path) -> None:
    text = path.read_text()
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (path.parent / target).exists(), target
    for named in re.findall(r"`((?:tests|benchmarks|configs|scripts)/[\w./-]+)`", text):
        assert (ROOT / named).exists(), named


def test_the_readme_names_every_command() -> None:
    text = (ROOT / "README.md").read_text()
    for command in COMMANDS:
        assert f"`{command}" in text, command


@pytest.mark.parametrize("path", sorted(ROOT.glob("configs/*.yaml")), ids=lambda p: p.name)
def test_sample_configurations_are_valid(path: Path) -> None:
    spec = resolve_spec({}, environ={}, config_file=path)
    assert spec.model == yaml.safe_load(path.read_text())["model"]

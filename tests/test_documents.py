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


def test_every_promise_names_tests_that_exist() -> None:
    text = (ROOT / "SECURITY.md").read_text()
    promises = re.split(r"^ ?\d+\. \*\*", text[text.index("## What is promised") :], flags=re.M)[1:]
    assert len(promises) == 10
    for promise in promises:
        assert "::test_" in promise, promise
    for file, test in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text):
        assert f"def {test}(" in (ROOT / file).read_text(), f"{file}::{test}"


def test_the_readme_names_every_command() -> None:
    text = (ROOT / "README.md").read_text()
    for command in COMMANDS:
        assert f"`{command}" in text, command


@pytest.mark.parametrize("path", sorted(ROOT.glob("configs/*.yaml")), ids=lambda p: p.name)
def test_sample_configurations_are_valid(path: Path) -> None:
    spec = resolve_spec({}, environ={}, config_file=path)
    assert spec.model == yaml.safe_load(path.read_text())["model"]

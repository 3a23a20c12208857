"""The catalogue of rules: one name for each, and a page that has them all."""

from __future__ import annotations

import importlib.util
import re
from typing import Any

from neuron_artifacts.backends.findings import SEVERITIES
from neuron_artifacts.backends.nxdi.preflight import catalogue
from neuron_artifacts.backends.nxdi.preflight.catalogue import RULES
from tests.models import ROOT


def load_script() -> Any:
    path = ROOT / "scripts" / "make_preflight_table.py"
    spec = importlib.util.spec_from_file_location("make_preflight_table", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_has_the_rules_of_today() -> None:
    page = (ROOT / "docs" / "preflight.md").read_text()
    assert load_script().fill_in(page) == page, "run scripts/make_preflight_table.py"


def test_no_rule_is_in_two_groups() -> None:
    names = [name for rules in catalogue._GROUPS.values() for name in rules]
    assert len(names) == len(set(names)) == len(RULES)


def test_every_rule_is_well_formed() -> None:
    for name, rule in RULES.items():
        assert re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name)
        assert rule.severity in SEVERITIES
        assert "|" not in rule.summary

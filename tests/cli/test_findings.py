"""What ``--preflight-only`` prints."""

from __future__ import annotations

import json

import pytest

from neuron_artifacts.backends.findings import Finding
from neuron_artifacts.cli._findings import print_findings

FINDINGS = (
    Finding("error", "hbm", "a core has 16 GiB; " + "weights " * 20, "raise --tp-degree"),
    Finding("warning", "heads-padded", "padded"),
    Finding("note", "graphs", "8 graphs"),
)


def test_a_paragraph_each_and_a_count(capsys: pytest.CaptureFixture[str]) -> None:
    assert print_findings(FINDINGS, as_json=False) == 7
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "error    hbm"
    assert "         tip: raise --tp-degree" in lines
    assert lines[-1] == "1 error, 1 warning"
    assert max(map(len, lines)) <= 110


def test_the_same_as_data(capsys: pytest.CaptureFixture[str]) -> None:
    assert print_findings(FINDINGS[1:], as_json=True) == 0
    body = json.loads(capsys.readouterr().out)
    assert body["counts"] == {"error": 0, "warning": 1, "note": 1}
    assert body["exit_code"] == 0
    assert body["findings"][0] == {
        "severity": "warning", "rule": "heads-padded", "message": "padded", "hint": None,
    }  # fmt: skip

"""What a log, an exit code and an exception say about a failure."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from neuron_artifacts.worker.causes import Cause, change_for_retry, classify

LOGS = Path(__file__).parent.parent / "data" / "compiler-logs"
RETRYABLE = {"host_memory", "cached_failure"}


@pytest.mark.parametrize("path", sorted(LOGS.iterdir()), ids=lambda path: path.name)
def test_a_log_is_of_the_kind_it_is_named_after(path: Path) -> None:
    log, kind = path.read_text(), path.name.partition(".")[0]
    cause = classify(log, 1, "RuntimeError: neuronx-cc failed with 70" if kind != "unknown" else "")
    assert cause.kind == kind
    assert cause.retryable == (kind in RETRYABLE)
    assert cause.hint
    assert kind == "unknown" or cause.detail
    assert len(cause.detail) <= 240
    assert "\n" not in cause.detail


def test_every_kind_has_a_log() -> None:
    named = {path.name.partition(".")[0] for path in LOGS.iterdir()}
    assert named >= {
        "host_memory", "device_memory", "too_many_instructions", "unsupported_operator",
        "model_access", "disk_full", "device_unavailable", "cached_failure", "internal_error",
    }  # fmt: skip


QUIET = "INFO:Neuron:Starting compilation for all HLOs\n"

ENDINGS = [
    (-signal.SIGKILL, None, "host_memory"),
    (-signal.SIGINT, None, "interrupted"),
    (-signal.SIGTERM, None, "interrupted"),
    (1, "KeyboardInterrupt: ", "interrupted"),
    (1, "MemoryError: ", "host_memory"),
    (-signal.SIGSEGV, None, "unknown"),
    (1, "ValueError: tp_degree must divide 8", "unknown"),
    (1, "OSError: [Errno 28] No space left on device", "disk_full"),
    (None, None, "unknown"),
    (0, None, "unknown"),
]


@pytest.mark.parametrize(("returncode", "exception", "kind"), ENDINGS)
def test_how_it_ended(returncode: int | None, exception: str | None, kind: str) -> None:
    assert classify(QUIET, returncode, exception).kind == kind


def test_an_interrupt_outranks_what_it_caused() -> None:
    assert classify("neuronx-cc failed with -9", -signal.SIGINT, None).kind == "interrupted"


def test_what_was_raised_outranks_what_was_printed() -> None:
    log = "WARNING: Bypassing Hub cache: 401 Client Error\n"
    raised = "RuntimeError: Too many instructions after unroll!"
    assert classify(log, 1, raised).kind == "too_many_instructions"
    assert classify(log, 1, "RuntimeError: neuronx-cc failed with 1").kind == "model_access"


def test_the_detail_is_what_matters_of_a_long_line() -> None:
    command = "Failed compilation with ['neuronx-cc', " + "'--flag', " * 200 + "]: "
    text = f"{command}[XCG815]  Estimated peak HBM usage (22.8) exceeds 16GB. Neff won't load"
    detail = classify(text, 1, None).detail
    assert detail.startswith("Estimated peak HBM usage (22.8) exceeds 16GB")


def cause(log: str) -> Cause:
    return classify(log, 1, None)


def test_the_one_retry_that_can_help() -> None:
    memory = cause("[F137] neuronx-cc was forcibly killed")
    assert change_for_retry(memory, {"a": 1}, {}) == ({"a": 1, "jobs": 1}, {})
    assert change_for_retry(memory, {"a": 1, "jobs": 1}, {}) is None
    cached = cause("Got a cached failed neff at /c")
    flag = "--retry_failed_compilation"
    assert change_for_retry(cached, {}, {}) == ({}, {"NEURON_CC_FLAGS": flag})
    changed = change_for_retry(cached, {}, {"NEURON_CC_FLAGS": "-O1"})
    assert changed == ({}, {"NEURON_CC_FLAGS": f"-O1 {flag}"})
    assert change_for_retry(cached, {}, {"NEURON_CC_FLAGS": f"{flag} -O1"}) is None
    for log in ("Too many instructions after unroll", "GatedRepoError", "", "[NCC_EOOM001]"):
        assert change_for_retry(cause(log), {}, {}) is None

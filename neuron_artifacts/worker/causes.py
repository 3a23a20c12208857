"""Why a compile failed, from what the compiler printed and how it ended. Pure decisions.

The texts come from the compiler's list of error codes
(https://awsdocs-neuron.readthedocs-hosted.com/en/latest/compiler/error-codes/index.html) and from
public issues, which the table names; ``sdk#N`` is
https://github.com/aws-neuron/aws-neuron-sdk/issues/N.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal[
    "interrupted", "model_access", "hub_unreachable", "disk_full", "device_memory",
    "too_many_instructions", "unsupported_operator", "host_memory", "device_unavailable",
    "cached_failure", "internal_error", "unknown",
]  # fmt: skip

_DETAIL_CHARACTERS = 240
_INTERRUPTS = {-signal.SIGINT, -signal.SIGTERM, -signal.SIGHUP}


@dataclass(frozen=True)
class Cause:
    """Why it failed; ``detail`` is the line that says so, if one does.

    ``retryable`` says that a second try, changed as :func:`change_for_retry` does, can succeed.
    """

    kind: Kind
    summary: str
    hint: str
    retryable: bool = False
    detail: str = ""


@dataclass(frozen=True)
class _Rule:
    kind: Kind
    summary: str
    hint: str
    texts: tuple[str, ...]
    retryable: bool = False

    def match(self, text: str) -> re.Match[str] | None:
        return re.search("|".join(self.texts), text, re.MULTILINE)


_INTERRUPTED = _Rule(
    "interrupted", "it was interrupted", "run it again; finished graphs are in Neuron's cache", ()
)
_HOST_MEMORY = _Rule(
    "host_memory",
    "it was killed or refused memory, as happens when this host runs out of it",
    "compile on an instance with more memory, or add swap; smaller buckets and batches take less",
    (
        r"\[F137\] neuronx-cc was forcibly killed",  # the compiler's own words
        r"neuronx-cc failed with -9\b",  # sdk#706
        r"Compile command returned: -9\b",  # sdk#431
        r"^Killed$",  # https://github.com/aws-neuron/nki-samples/issues/87
        r"process in the process pool was terminated abruptly",  # sdk#328
        r"std::bad_alloc|Cannot allocate memory|^MemoryError\b|DefaultCPUAllocator: can't allocate",
        r"NRT_FAIL_HOST_MEM_ALLOC",  # …/neuron-runtime/api/nrt_status.html
    ),
    retryable=True,
)

_INTERNAL_ERROR = _Rule(
    "internal_error",
    "the compiler failed with an error of its own",
    "try another Neuron SDK or other buckets; the log has what an issue at "
    "https://github.com/aws-neuron/aws-neuron-sdk/issues needs",
    (
        r"An Internal Compiler Error has occurred",  # sdk#328
        r"\[F13[49]\] neuronx-cc terminated abnormally",  # sdk#1000
        r"\[(?:NLA|XCG|NCC_I)\w*\]",  # sdk#1023
        r"BIR verification failed",  # sdk#859
        r"Please open a support ticket",
        r"neuronx-cc (?:compilation )?failed with",  # sdk#708, sdk#1369
    ),
)

# In this order: what can be seen as two things is the one that tells more.
_RULES = (
    _Rule(
        "model_access",
        "the hub did not give access to the model",
        "accept the model's licence on its page, and set HF_TOKEN to a token that may read it",
        (
            r"Cannot access gated repo",  # https://github.com/city96/ComfyUI_ExtraModels/issues/99
            r"GatedRepoError",  # https://github.com/huggingface/optimum-neuron/issues/535
            r"\b40[13] Client Error",
            r"RepositoryNotFoundError|Invalid username or password|Invalid user token",
        ),
    ),
    _Rule(
        "hub_unreachable",
        "the hub could not be reached",
        "check the connection, HF_ENDPOINT and HF_HUB_OFFLINE, or name a folder as the model",
        # huggingface_hub, file_download.py and utils/_http.py
        (r"LocalEntryNotFoundError", r"OfflineModeIsEnabled", r"locate the file on the Hub"),
    ),
    _Rule(
        "disk_full",
        "a disk is full",
        "free space where the artifact, the compiler's cache (/var/tmp/neuron-compile-cache, "
        "NEURON_COMPILE_CACHE_URL) and temporary files (TMPDIR) lie",
        (r"No space left on device", r"Disk quota exceeded"),
    ),
    _Rule(
        "device_memory",
        "the model does not fit into the device's memory (HBM)",
        "raise --tensor-parallel-size, or lower the batch size, the sequence length or the buckets",
        (
            r"Estimated peak HBM usage .{0,40}exceeds",  # sdk#884
            r"\bNCC_(?:EOOM00[12]|EVRF009|EXSP001)\b",  # the list of error codes
            r"Failed to alloc(?:ate)? DEVICE memory",  # …/transformers-neuronx/issues/49
            r"nrt_\w+ status=4 message=\"Allocation Failure\"",  # vllm-project/vllm#12443
            r"\bNRT_RESOURCE\b",  # https://github.com/huggingface/optimum-neuron/pull/668
        ),
    ),
    _Rule(
        "too_many_instructions",
        "a graph has more instructions than the compiler takes",
        "raise --tensor-parallel-size, or drop the largest buckets or lower the batch size",
        (
            r"Too many instructions after unroll",  # sdk#739
            r"Compiler generated too many instructions",  # sdk#819
            r"\bNCC_(?:EBVF030|EVRF007|EXTP004)\b",  # the list of error codes
        ),
    ),
    _Rule(
        "unsupported_operator",
        "the model uses an operation or a data type that this compiler does not support",
        "use a newer Neuron SDK, another data type, or an architecture the library supports",
        (
            # unsupported operators, custom calls, data types and shapes of the list of error codes
            r"\bNCC_(?:EUOC002|EHCA005|EMOD025|ESFH002|ESPP0\d\d)\b",
            r"\bNCC_EVRF0(?:0[1456]|1\d|22|3[15]|4\d|5[0-58]|6[0-3])\b",
            r"Unsupported (?:op|operator|data ?type)\b",
        ),
    ),
    _HOST_MEMORY,
    _Rule(
        "device_unavailable",
        "the Neuron cores could not be had",
        "end what uses them (neuron-ls lists it), or lower --tensor-parallel-size; on a host "
        "without a device only compiling works",
        (
            r"NRT_LOAD_NOT_ENOUGH_NC|NERR_RESOURCE_NC|NRT_EXEC_NC_BUSY",  # sdk#493
            # https://github.com/aws-neuron/aws-neuron-samples/issues/44
            r"No neuron device available|Neuron runtime cannot be initialized",
            r"No Neuron device detected",  # optimum-neuron, utils/system.py:41
        ),
    ),
    _Rule(
        "cached_failure",
        "Neuron's cache remembers that this graph failed before",
        "clear the cache entry that the log names, or set "
        "NEURON_CC_FLAGS=--retry_failed_compilation",
        (r"Got a cached failed neff",),  # sdk#1023
        retryable=True,
    ),
)
_UNKNOWN = _Rule("unknown", "", "the log may say more", ())


def classify(log: str, returncode: int | None, exception: str | None) -> Cause:
    """The cause of a failure.

    Parameters
    ----------
    log:
        What worker and compilers printed.
    returncode:
        How the worker ended: negative for a signal, ``None`` if that is not known.
    exception:
        ``"Type: message"`` of what it raised, if it lived to tell.
    """
    kind_of_exception = (exception or "").partition(":")[0]
    if kind_of_exception == "KeyboardInterrupt" or returncode in _INTERRUPTS:
        return _cause(_INTERRUPTED, "")
    # What was raised outranks what was printed, where the cache may warn of a 401 and go on;
    # but "it failed" there says less than a cause here.
    texts = (exception or "", log)
    for rules in (_RULES, (_INTERNAL_ERROR,)):
        for text in texts:
            for rule in rules:
                match = rule.match(text)
                if match:
                    return _cause(rule, _line_around(text, match))
    if returncode == -signal.SIGKILL or kind_of_exception == "MemoryError":
        return _cause(_HOST_MEMORY, "")
    return _cause(_UNKNOWN, _first_line(exception or ""))


def change_for_retry(
    cause: Cause, request: Mapping[str, Any], environ: Mapping[str, str]
) -> tuple[Mapping[str, Any], Mapping[str, str]] | None:
    """Request and environment of the one retry that can help, or ``None``.

    Out of memory: one compiler at a time (``jobs``). A remembered failure: tell the cache to
    forget it (a flag that libneuronxla takes for itself, so the graph's key stays the same).
    """
    if not cause.retryable:
        return None
    if cause.kind == "host_memory":
        return None if request.get("jobs") == 1 else ({**request, "jobs": 1}, environ)
    flag, flags = "--retry_failed_compilation", environ.get("NEURON_CC_FLAGS", "")
    if flag in flags.split():
        return None
    return request, {**environ, "NEURON_CC_FLAGS": f"{flags} {flag}".strip()}


def _cause(rule: _Rule, detail: str) -> Cause:
    return Cause(rule.kind, rule.summary, rule.hint, rule.retryable, detail)


def _line_around(text: str, match: re.Match[str]) -> str:
    """The line of a match, cut to what stands around it: wrappers print the whole command."""
    begin = text.rfind("\n", 0, match.start()) + 1
    end = text.find("\n", match.end())
    end = len(text) if end < 0 else end
    begin = begin if match.start() - begin < _DETAIL_CHARACTERS // 3 else match.start()
    return " ".join(text[begin:end].split())[:_DETAIL_CHARACTERS]


def _first_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0][:_DETAIL_CHARACTERS] if lines else ""

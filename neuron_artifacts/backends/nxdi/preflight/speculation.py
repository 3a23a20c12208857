"""Speculation: the draft, its head, and the room at the end of a sequence.

Sources in neuronx-distributed-inference: ``models/model_base.py`` (``NeuronFusedSpecModel``),
``models/llama/modeling_llama.py`` (what an EAGLE draft consists of); aws-neuron-sdk
``libraries/nxd-inference/developer_guides/feature-guide.rst`` (the target's head in the draft).
"""

from __future__ import annotations

from collections.abc import Iterator

from neuron_artifacts.backends.findings import Finding
from neuron_artifacts.backends.nxdi.preflight.catalogue import finding
from neuron_artifacts.backends.nxdi.preflight.subject import Shape, Subject
from neuron_artifacts.model.safetensors_header import TensorInfo

LM_HEAD = "lm_head.weight"
_FC = "fc.weight"
_NORMS = ("layers.0.input_layernorm.weight", "midlayer.input_layernorm.weight")


def check_speculation(subject: Subject) -> Iterator[Finding]:
    """Fused speculation with any draft."""
    yield from _medusa(subject)
    length = subject.field("speculation_length", 0)
    if length > 0:
        yield from _last_length(subject, length)
        if subject.field("lora_config") is not None:
            yield finding("speculation-lora", "vLLM runs speculation without LoRA only")
    if not subject.speculates:
        return
    if length < 1:
        yield finding(
            "speculation-length",
            f"fused speculation with speculation_length {length}",
            hint="give --num-speculative-tokens",
        )
    if subject.field("on_device_sampling_config") is None:
        yield finding(
            "speculation-sampling",
            "fused speculation samples on the device, and on_device_sampling_config is not given",
        )
    if subject.draft is None:
        yield finding(
            "draft-missing",
            "fused speculation without a draft model",
            hint="give --speculative-model",
        )
        return
    yield from _compare(subject)


def check_eagle(subject: Subject) -> Iterator[Finding]:
    """What only an EAGLE draft must have."""
    if not subject.is_eagle:
        return
    if subject.field("is_eagle3"):
        if subject.field("enable_token_tree"):
            yield finding("eagle3-token-tree", "EAGLE3 and a token tree exclude each other")
        if subject.field("is_prefix_caching"):
            yield finding("eagle3-prefix-caching", "EAGLE3 and prefix caching exclude each other")
    shape, target = subject.draft_shape, subject.shape
    if subject.draft is None or shape is None or target is None or not subject.draft.tensors:
        return
    tensors = {
        name.removeprefix("model."): info for name, info in subject.draft.all_tensors.items()
    }
    yield from _check_head(subject, shape, tensors)
    yield from _check_fc(subject, shape, target, tensors)
    yield from _check_norm(subject, tensors)


def last_usable_length(max_length: int, speculation_length: int) -> int:
    """How long prompt and answer may be together: a step writes ``speculation_length`` ahead."""
    return max_length - speculation_length


def _last_length(subject: Subject, length: int) -> Iterator[Finding]:
    most = subject.fields["max_length"]
    last = last_usable_length(most, length)
    if last < 1:
        yield finding(
            "speculation-room",
            f"speculation_length {length} leaves no room in max_length {most}",
        )
        return
    yield finding(
        "speculation-last-length",
        f"the last usable length is {last} (max_length {most} - speculation_length {length}): "
        "vLLM's look-ahead asks for a second block beyond it, and each sequence has one",
    )


def _compare(subject: Subject) -> Iterator[Finding]:
    draft, target = subject.draft_shape, subject.shape
    if draft is None or target is None:
        return
    if draft.vocab_size != target.vocab_size:
        yield finding(
            "draft-vocabulary",
            f"the draft's vocabulary has {draft.vocab_size} entries, the target's "
            f"{target.vocab_size}",
        )
    if draft.model_type != target.model_type:
        yield finding(
            "draft-class",
            f"the draft's model_type is {draft.model_type}, and the target's classes, for "
            f"{target.model_type}, run it",
        )
    eagle1 = subject.is_eagle and not subject.field("is_eagle3")
    if eagle1 and draft.hidden_size != target.hidden_size:
        yield finding(
            "eagle-hidden-size",
            f"the draft's hidden size is {draft.hidden_size}, the target's {target.hidden_size}: "
            "EAGLE feeds the one with the other's states",
        )


def _check_head(
    subject: Subject, shape: Shape, tensors: dict[str, TensorInfo]
) -> Iterator[Finding]:
    head = tensors.get(LM_HEAD)
    draft, model = subject.draft, subject.model
    assert draft is not None
    if head is None:
        own = "EAGLE3 drafts have a head of their own: the checkpoint is not whole"
        convert = (
            f"neuron-artifacts convert-eagle {draft.source} --target-model {model.source} "
            "--output DIR writes a draft that has it"
        )
        yield finding(
            "eagle-head",
            f"the EAGLE draft {draft.name} has no {LM_HEAD}: it needs the target's",
            hint=own if subject.field("is_eagle3") else convert,
        )
    elif head.shape != (shape.vocab_size, shape.hidden_size):
        yield finding(
            "eagle-head-shape",
            f"{LM_HEAD} of the draft is {list(head.shape)}, and NxD Inference makes it "
            f"[{shape.vocab_size}, {shape.hidden_size}] (vocab_size, hidden_size)",
            hint="a reduced vocabulary (draft_vocab_size, d2t) is not supported there"
            if head.shape[:1] == (draft.config.get("draft_vocab_size"),)
            else None,
        )
    if head is not None and shape.is_tied:
        yield finding(
            "eagle-head-tied",
            "the draft's tie_word_embeddings is true: NxD Inference replaces its head with its "
            "embeddings",
            hint="set it to false in the draft's config.json",
        )


def _check_fc(
    subject: Subject, shape: Shape, target: Shape, tensors: dict[str, TensorInfo]
) -> Iterator[Finding]:
    inputs = 3 * target.hidden_size if subject.field("is_eagle3") else 2 * shape.hidden_size
    found = tensors.get(_FC)
    if found is None:
        yield finding("eagle-fc", f"the draft has no {_FC}: it is no EAGLE draft")
    elif found.shape != (shape.hidden_size, inputs):
        yield finding(
            "eagle-fc",
            f"{_FC} of the draft is {list(found.shape)} rather than [{shape.hidden_size}, {inputs}]"
            f" for {'EAGLE3' if subject.field('is_eagle3') else 'EAGLE'}",
        )


def _check_norm(subject: Subject, tensors: dict[str, TensorInfo]) -> Iterator[Finding]:
    has_norm = any(name in tensors for name in _NORMS)
    wants = bool(subject.field("enable_eagle_draft_input_norm"))
    if wants and not has_norm:
        yield finding(
            "eagle-norm", "enable_eagle_draft_input_norm, and the draft has no input_layernorm"
        )
    if has_norm and not wants:
        yield finding(
            "eagle-norm-unused",
            "the draft has an input_layernorm, which is left out",
            hint="set enable_eagle_draft_input_norm: true",
        )


def _medusa(subject: Subject) -> Iterator[Finding]:
    if not subject.field("is_medusa"):
        return
    if subject.fields["batch_size"] > 1:
        yield finding(
            "medusa-batch", f"Medusa runs one sequence, and batch_size is "
            f"{subject.fields['batch_size']}",
        )  # fmt: skip
    root = subject.model.root
    if root is not None and not (root / "medusa_heads.pt").exists():
        yield finding("medusa-heads", f"Medusa needs medusa_heads.pt in {root}")

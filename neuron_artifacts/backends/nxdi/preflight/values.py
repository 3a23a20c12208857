"""Whether NeuronConfig's numbers are numbers, before anything is computed with them."""

from __future__ import annotations

from collections.abc import Iterator

from neuron_artifacts.backends.findings import Finding
from neuron_artifacts.backends.nxdi.preflight.catalogue import finding
from neuron_artifacts.backends.nxdi.preflight.subject import Subject

_POSITIVE = (
    "attention_dp_degree", "batch_size", "cp_degree", "ep_degree", "kv_cache_batch_size",
    "local_ranks_size", "max_context_length", "max_length", "moe_ep_degree", "moe_tp_degree",
    "pa_block_size", "pa_num_blocks", "pp_degree", "seq_len", "tkg_batch_size", "tp_degree",
    "world_size",
)  # fmt: skip
_AT_LEAST_ZERO = ("kv_cache_padding_size", "speculation_length", "start_rank_id")
_MOST = 1 << 40


def check_values(subject: Subject) -> Iterator[Finding]:
    """Counts, lengths and degrees that are none. NxD Inference itself does not look."""
    for names, least in ((_POSITIVE, 1), (_AT_LEAST_ZERO, 0)):
        for name in names:
            value = subject.fields.get(name, least)
            whole = isinstance(value, int) and not isinstance(value, bool)
            if not whole or not least <= value <= _MOST:
                yield finding(
                    "value-unusable",
                    f"{name} must be a whole number of {least} or more, and is {value!r}",
                )
    lora = subject.fields.get("lora_config")
    for name in ("max_loras", "max_lora_rank"):
        value = lora.get(name, 1) if isinstance(lora, dict) else 1
        if not isinstance(value, int) or not 1 <= value <= _MOST:
            yield finding("value-unusable", f"lora_config.{name} is no number of 1 or more")

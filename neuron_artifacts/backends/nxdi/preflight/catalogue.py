"""Every rule of preflight by its name: how bad it is, and what it says in one line."""

from __future__ import annotations

from dataclasses import dataclass

from neuron_artifacts.backends.findings import Finding, Severity


@dataclass(frozen=True)
class Rule:
    """``subject`` is the heading it is documented under."""

    subject: str
    severity: Severity
    summary: str


_Rules = dict[str, tuple[Severity, str]]

_CORES: _Rules = {
    "cores": ("error", "the ranks of one host are more than the largest machine of this kind has"),
    "cores-fit": ("note", "the smallest machines that have the cores and the memory"),
    "world-size": ("error", "`world_size` is no multiple of `tp_degree x pp_degree x ep_degree`"),
    "moe-degrees": (
        "warning", "`moe_tp_degree x moe_ep_degree` is another number than `tp_degree`",
    ),
    "logical-cores": ("warning", "`logical_nc_config` was asked to be another than the platform's"),
    "heads-padded": ("warning", "query heads do not divide over the cores and are padded"),
    "kv-heads-replicated": ("note", "key-value heads are replicated to one a core"),
    "kv-heads-per-query": (
        "warning",
        "`tp_degree` fits no number of copies of the key-value heads: each query head gets its own",
    ),
    "flash-decoding-heads": ("error", "flash decoding cannot share key-value heads evenly"),
    "sizes-unknown": ("note", "`config.json` does not name its sizes: heads, memory not examined"),
}  # fmt: skip

_MEMORY: _Rules = {
    "hbm": ("error", "weights and cache are more than a core's memory"),
    "hbm-tight": ("warning", "weights and cache leave less than a tenth of a core's memory"),
    "hbm-estimate": ("note", "what weights and cache take of a core's memory, with the arithmetic"),
    "host-memory": ("error", "sharding casts or quantises more than this machine's memory holds"),
    "host-memory-tight": ("warning", "the mapped checkpoint and a shard are more than its memory"),
    "host-memory-serving": ("note", "machines whose memory could not hold the shards of one host"),
    "disk": ("error", "the shards, and a quantised checkpoint, are more than the free disk"),
    "disk-tight": ("warning", "they leave less than a tenth of the free disk for graphs and logs"),
    "weights-beside": (
        "warning",
        "without `save_sharded_checkpoint` weights are sharded at every start, and vLLM reads a "
        "draft, a quantised checkpoint or adapters where they were",
    ),
    "skip-sharding": (
        "error", "`skip_sharding` with `save_sharded_checkpoint`: shards are read, none are made",
    ),
}  # fmt: skip

_BUCKETS: _Rules = {
    "max-context-length": ("error", "`max_context_length` is more than `max_length`"),
    "buckets-empty": ("error", "a list of buckets is empty"),
    "buckets-limit": ("error", "the last bucket lies beyond what it is a bucket of"),
    "buckets-short": ("warning", "the last bucket lies below it: longer requests have no graph"),
    "buckets-ignored": ("warning", "buckets are given and `enable_bucketing` is false"),
    "buckets-twice": ("warning", "a bucket is listed twice and would be compiled twice"),
    "buckets-value": ("error", "a bucket is no positive whole number"),
    "prefix-buckets": (
        "error", "prefix caching takes context buckets only together with `prefix_buckets`",
    ),
    "prefix-buckets-ignored": ("warning", "`prefix_buckets` without what would read them"),
    "batch-buckets": ("error", "`token_generation_batches` with what excludes them"),
    "seq-len-positions": ("warning", "`max_length` is more than the model was trained for"),
    "graphs": ("note", "how many graphs will be compiled"),
}  # fmt: skip

_SPECULATION: _Rules = {
    "draft-missing": ("error", "fused speculation without a draft model"),
    "draft-vocabulary": ("error", "draft and target have vocabularies of different sizes"),
    "draft-class": ("warning", "the draft is run by the target's classes and is of another type"),
    "speculation-length": ("error", "fused speculation with no `speculation_length`"),
    "speculation-room": ("error", "`speculation_length` leaves no room in `max_length`"),
    "speculation-last-length": ("note", "the last usable length with speculation"),
    "speculation-sampling": ("error", "fused speculation without on-device sampling"),
    "speculation-lora": ("error", "speculation with LoRA adapters"),
    "speculation-async": ("error", "unfused speculation with `async_mode`, before 2.23"),
    "medusa-async": ("error", "Medusa with `async_mode`"),
    "medusa-heads": ("error", "Medusa without `medusa_heads.pt` beside the weights"),
    "medusa-batch": ("error", "Medusa with a batch"),
    "eagle-head": ("error", "the EAGLE draft has no `lm_head.weight`"),
    "eagle-head-shape": ("error", "its shape is not the vocabulary by the hidden size"),
    "eagle-head-tied": ("warning", "the draft's `tie_word_embeddings` replaces its head"),
    "eagle-fc": ("error", "the draft has no `fc.weight`, or one of another shape"),
    "eagle-norm": ("error", "`enable_eagle_draft_input_norm` without that norm in the draft"),
    "eagle-norm-unused": ("warning", "the draft has an input norm, which would be left out"),
    "eagle-hidden-size": ("error", "an EAGLE draft of another hidden size than its target's"),
    "eagle3-token-tree": ("error", "EAGLE3 with a token tree"),
    "eagle3-prefix-caching": ("error", "EAGLE3 with prefix caching"),
}  # fmt: skip

_LORA: _Rules = {
    "lora-entry": ("error", "`lora_config` has an entry this level does not know"),
    "lora-adapter-form": ("error", "an adapter is not of the form `id:path`"),
    "lora-adapter-twice": ("error", "two adapters of one name"),
    "lora-adapter-missing": ("error", "an adapter's folder is not there"),
    "lora-adapter-config": ("error", "its `adapter_config.json` is missing or says too little"),
    "lora-adapter-weights": ("error", "an adapter has no weights"),
    "lora-adapter-pickle": ("warning", "its weights are a pickle, which is run when it is loaded"),
    "lora-base-model": ("warning", "an adapter names another base model"),
    "lora-rank": ("warning", "an adapter's rank is above `max_lora_rank`, which is raised to it"),
    "lora-max-loras": ("warning", "more adapters than `max_loras`, which is raised to them"),
    "lora-max-cpu": ("error", "more adapters than `max_cpu_loras`"),
    "lora-modules": ("warning", "an adapter has modules that `target_modules` lacks"),
    "lora-modules-absent": ("error", "`target_modules` names nothing that the model has"),
    "lora-modules-order": (
        "warning", "the order of `target_modules` depends on Python's hash seed",
    ),
    "lora-none": ("error", "`lora_config` without adapters or `target_modules`"),
}  # fmt: skip

_QUANTIZATION: _Rules = {
    "quantized-path": ("error", "`quantized` without `quantized_checkpoints_path`"),
    "quantization-dtype": ("error", "an unknown `quantization_dtype`"),
    "quantization-type": ("error", "an unknown `quantization_type`"),
    "quantization-made": (
        "error", "a `quantization_type` that cannot be made here, with no checkpoint that has it",
    ),
    "quantized-stale": (
        "error", "a compile made `quantized_checkpoints_path` of other weights or settings",
    ),
    "quantized-mlp-dtype": ("error", "a quantised MLP kernel with another dtype than `f8e4m3`"),
    "quantized-qkv-kernel": ("error", "a QKV kernel without `modules_to_not_convert`"),
    "quantized-whole": ("note", "no `modules_to_not_convert`: every linear layer is quantised"),
    "quantized-fp8": ("warning", "fp8 without the two variables that the compiler needs"),
    "quantized-already": ("warning", "the checkpoint is quantised in a format of its own"),
    "rmsnorm-quantize-kernel": ("error", "`rmsnorm_quantize_kernel_enabled` alone"),
    "activation-quantization-type": ("error", "an unknown `activation_quantization_type`"),
    "activation-quantization-kernels": ("error", "activation quantisation with MLP kernels"),
    "attention-dtype": ("error", "`attention_dtype` differs without `cast_type` as-declared"),
    "cast-type": ("error", "an unknown `cast_type`"),
    "dtype-range": ("warning", "float16 cannot hold what a bfloat16 checkpoint may hold"),
    "dtype-mixed": ("warning", "as-declared keeps weights in another dtype than `torch_dtype`"),
}  # fmt: skip

_NEURON_CONFIG: _Rules = {
    "value-unusable": ("error", "a value cannot be computed with"),
    "argument-unknown": ("warning", "NeuronConfig has no such field and drops it"),
    "argument-computed": ("warning", "NeuronConfig computes this field and drops what was asked"),
    "fused-qkv-dropped": ("warning", "activation quantisation switches `fused_qkv` off silently"),
    "kernel-deprecated": ("warning", "a switch that the SDK has replaced"),
    "chunked-prefill-layout": ("error", "chunked prefill without `is_block_kv_layout`"),
    "chunked-prefill-batch": ("error", "chunked prefill alone with a batch"),
    "chunked-prefill-unsupported": ("error", "chunked prefill from SDK 2.28 on"),
    "chunked-attention": ("error", "a model of chunked attention with what excludes it"),
    "model-attributes": ("error", "`config.json` lacks an attribute that the class needs"),
    "tensor-capture": ("error", "`tensor_capture_config` without on-device sampling"),
    "cp-degree": ("error", "`tp_degree` is no multiple of `cp_degree`"),
    "attention-dp-degree": ("error", "`attention_dp_degree` divides `tp_degree` or batch unevenly"),
    "attention-dp-cp": ("error", "`cp_degree` is no multiple of `attention_dp_degree`"),
    "attention-dp-batching": ("error", "`attention_dp_degree` without continuous batching"),
    "attention-dp-cache-update": ("error", "`attention_dp_degree` with the kernel's cache update"),
    "strided-cp-kernel": ("error", "the strided kernel without `cp_degree`"),
    "mlp-cp-degree": ("error", "`mlp_cp_degree` without sequence parallelism"),
    "full-model-shuffled": ("error", "`is_full_model_shuffled` without what needs it"),
    "ep-dispatch": ("error", "`RS_AG` with more cores than sequences"),
    "tkg-kernels-exclusive": ("error", "several token-generation attention kernels"),
    "tkg-kernels-exclude": ("error", "such a kernel with what it excludes"),
    "block-tkg-kernel": ("error", "the block kernel without a QKV kernel"),
    "block-tkg-kernel-parts": ("error", "a part of the block kernel without it"),
    "block-cte-kernel": ("error", "the context-encoding block kernel without its parts"),
    "fuse-rope-kernel": ("error", "fused rope without both QKV kernels"),
    "k-cache-transposed": ("error", "a transposed cache with what excludes it"),
    "window-size": ("error", "`windowed_context_encoding_size` is not the model's window"),
    "model-class": ("warning", "no class of NxD Inference is known here for the architecture"),
    "level-unknown": ("note", "the SDK level is not known here: its own code judges NeuronConfig"),
}  # fmt: skip

_NODES: _Rules = {
    "ranks": ("error", "this node's ranks lie outside the world"),
    "nodes-variables": ("error", "some variables of a multi-node launch are missing or no numbers"),
    "nodes-rank": ("error", "`NEURON_RANK_ID` is not below the number of nodes"),
    "nodes-differ": ("error", "the launch's variables contradict NeuronConfig"),
    "nodes-address": ("note", "what the nodes find each other by must be set when serving"),
}  # fmt: skip

_GROUPS = {
    "Cores": _CORES,
    "Memory": _MEMORY,
    "Buckets": _BUCKETS,
    "Speculation": _SPECULATION,
    "LoRA": _LORA,
    "Quantisation and dtypes": _QUANTIZATION,
    "NeuronConfig": _NEURON_CONFIG,
    "Several nodes": _NODES,
}

RULES: dict[str, Rule] = {
    name: Rule(subject, severity, summary)
    for subject, rules in _GROUPS.items()
    for name, (severity, summary) in rules.items()
}


def finding(rule: str, message: str, *, hint: str | None = None) -> Finding:
    """What a rule found, as severe as the rule is."""
    return Finding(RULES[rule].severity, rule, message, hint)

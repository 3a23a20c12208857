"""Every rule of preflight: a request that breaks it, next to one that does not."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuron_artifacts.backends.findings import Finding
from neuron_artifacts.backends.nxdi.families import FAMILIES
from neuron_artifacts.backends.nxdi.levels import level_of
from neuron_artifacts.backends.nxdi.neuron_config import field_defaults
from neuron_artifacts.backends.nxdi.preflight.catalogue import RULES
from neuron_artifacts.errors import SpecError
from neuron_artifacts.toolchain.platforms import GIB
from tests.backends.nxdi.preflight.requests import (
    LLAMA_8B,
    Machine,
    adapter,
    eagle_draft,
    examine_request,
    shapes,
    snapshot,
)

LLAMA = FAMILIES["LlamaForCausalLM"]
MLP_KERNEL = {"quantized_mlp_kernel_enabled": True}
BLOCK_KERNEL = {"attn_block_tkg_nki_kernel_enabled": True, "qkv_kernel_enabled": True}
CONTINUOUS = {"attention_dp_degree": 2, "batch_size": 4, "is_continuous_batching": True}
FUSED = {
    "enable_fused_speculation": True, "speculation_length": 5,
    "on_device_sampling_config": {"top_k": 1},
}  # fmt: skip
EAGLE = {**FUSED, "enable_eagle_speculation": True}
CHUNKED = {"chunked_prefill_config": {"max_num_seqs": 4}, "is_block_kv_layout": True}
PREFIX = {"is_prefix_caching": True, "is_block_kv_layout": True, "pa_block_size": 32,
          "pa_num_blocks": 32}  # fmt: skip
QUANTIZED = {"quantized": True, "quantized_checkpoints_path": "/nowhere/at/all",
             "modules_to_not_convert": ["lm_head"]}  # fmt: skip
LAUNCH = {"ENABLE_NEURON_MULTI_NODE": "true", "NEURON_RANK_ID": "1", "WORLD_SIZE": "2",
          "NEURON_LOCAL_TP": "32", "NEURON_RT_ROOT_COMM_ID": "a:1"}  # fmt: skip
SECOND_NODE = {"tp_degree": 64, "local_ranks_size": 32, "start_rank_id": 32}
FP8 = {"XLA_HANDLE_SPECIAL_SCALAR": "1", "UNSAFE_FP8FNCAST": "1"}


def llama(dtype: str = "BF16", **changes: Any) -> Any:
    return snapshot({**LLAMA_8B, **changes}, tensors=shapes(LLAMA_8B), dtype=dtype)


CHUNKS = llama(attention_chunk_size=512)
MIXTRAL = snapshot({
    **LLAMA_8B, "architectures": ["MixtralForCausalLM"], "model_type": "mixtral",
    "num_local_experts": 8,
})  # fmt: skip


def eagle(**changes: Any) -> dict[str, Any]:
    return {**EAGLE, "draft": eagle_draft(**changes)}


CASES: list[tuple[str, dict[str, Any], str]] = [
    # cores
    ("cores", {"tp_degree": 64}, "64 cores .* trn1n?.32xlarge, has 32 "),
    ("cores", {"tp_degree": 128, "target": "trn2"}, "128 cores .* has 64 .logical_nc_config 2"),
    ("cores-fit", {}, "8 cores .*: inf2.24xlarge, inf2.48xlarge, trn1.32xlarge"),
    ("world-size", {"tp_degree": 8, "world_size": 12}, "12 is no multiple .* 8 x 1 x 1 = 8"),
    ("moe-degrees", {"model": MIXTRAL, "moe_ep_degree": 4}, "1 x moe_ep_degree 4 = 4, .* 8"),
    ("logical-cores", {"target": "trn2", "logical_nc_config": 1}, "1 was asked .* 2 is compiled"),
    ("heads-padded", {"tp_degree": 24}, "32 .* 24 cores: they are padded to 48, and 16"),
    ("kv-heads-replicated", {"tp_degree": 32}, "8 key-value heads become 32, .* 4 times"),
    ("kv-heads-per-query", {"tp_degree": 12}, "8 key-value heads become 36, one for each query"),
    ("flash-decoding-heads", {"tp_degree": 12, "flash_decoding_enabled": True}, "12 is no mult"),
    ("sizes-unknown", {"model": llama(num_hidden_layers="many")}, "names no sizes"),
    # memory
    ("hbm", {"tp_degree": 1, "batch_size": 16, "seq_len": 8192},
     r"has 16.00 GiB; weights 14.96 GiB \(14.96 GiB over 1\) \+ cache 16.00 GiB "
     r"\(2 x 32 layers x 16 slots x 8192 positions x 8 heads x 128 x 2 B\) = 30.96 GiB"),
    ("hbm-tight", {"tp_degree": 1, "seq_len": 2048}, "= 15.21 GiB, and 811.5 MiB stay"),
    ("hbm-estimate", {}, "weights 1.87 GiB .14.96 GiB over 8. . cache 16.0 MiB"),
    ("host-memory", {"torch_dtype": "float16", "machine": Machine(memory=12 * GIB)},
     "14.96 GiB of weights and 1.87 GiB of one rank's, and this machine has 12.00 GiB"),
    ("host-memory-tight", {"machine": Machine(memory=12 * GIB)}, "the files are mapped"),
    ("host-memory-serving", {"tp_degree": 2, "torch_dtype": "float32"},
     "are 29.92 GiB, .*: inf2.xlarge have less"),
    ("disk", {"machine": Machine(disk=10 * GIB)}, "14.9. GiB of shards .* 10.00 GiB of disk"),
    ("disk-tight", {"machine": Machine(disk=16 * GIB)}, "come on top"),
    ("weights-beside", {"save_sharded_checkpoint": False}, "sharded at every start$"),
    ("weights-beside", {**QUANTIZED, "save_sharded_checkpoint": False}, "the quantised .* must"),
    ("weights-beside", {**FUSED, "save_sharded_checkpoint": False}, "vLLM the draft must"),
    ("skip-sharding", {"skip_sharding": True}, "makes no shards"),
    # buckets
    ("max-context-length", {"max_context_length": 2048}, "2048 is more than max_length 1024"),
    ("buckets-empty", {"context_encoding_buckets": []}, "context_encoding_buckets is empty"),
    ("buckets-limit", {"token_generation_buckets": [128, 4096]}, "4096, beyond max_length 1024"),
    ("buckets-limit", {"token_generation_batches": [4]}, "4, beyond tkg_batch_size 1"),
    ("buckets-short", {"context_encoding_buckets": [128, 512]}, "512 and max_context.* 1024"),
    ("buckets-ignored", {"enable_bucketing": False, "token_generation_buckets": [1024]}, "not use"),
    ("buckets-twice", {"context_encoding_buckets": [1024, 1024]}, "twice"),
    ("buckets-value", {"context_encoding_buckets": [0, 1024]}, "no length"),
    ("prefix-buckets", {**PREFIX, "context_encoding_buckets": [512, 1024]}, "TypeError"),
    ("prefix-buckets-ignored", {"prefix_buckets": [512]}, "read only with"),
    ("batch-buckets", {"token_generation_batches": [1], **FUSED}, "speculation_length 5"),
    ("batch-buckets", {"token_generation_batches": [1], **PREFIX}, "is_prefix_caching"),
    ("seq-len-positions", {"model": llama(max_position_embeddings=512)}, "1024 .* 512"),
    ("graphs", {}, "8 graphs: context_encoding 128, .*, token_generation 1024"),
    # speculation
    ("draft-missing", FUSED, "without a draft"),
    ("draft-vocabulary", {**FUSED, "draft": llama(vocab_size=32000)}, "32000 entries, .* 128256"),
    ("draft-class", {**FUSED, "draft": llama(model_type="qwen2")}, "qwen2, .* llama, run it"),
    ("speculation-length", {**FUSED, "speculation_length": 0}, "speculation_length 0"),
    ("speculation-room", {**FUSED, "speculation_length": 1024}, "no room in max_length 1024"),
    ("speculation-last-length", eagle(), r"is 1019 \(max_length 1024 - speculation_length 5\)"),
    ("speculation-sampling", {**FUSED, "on_device_sampling_config": None}, "samples on the device"),
    ("speculation-lora", {**FUSED, "lora_config": {"target_modules": ["q_proj"]}}, "without LoRA"),
    ("speculation-async", {"sdk": "2.22", "speculation_length": 5, "async_mode": True}, "unfused"),
    ("medusa-async", {"is_medusa": True, "async_mode": True}, "Medusa with async_mode"),
    ("medusa-batch", {"is_medusa": True, "batch_size": 2}, "batch_size is 2"),
    ("eagle-head", eagle(**{"lm_head.weight": None}), "draft has no lm_head.weight"),
    ("eagle-head-shape", eagle(**{"lm_head.weight": (32000, 4096)}), "32000, 4096.* .128256, 4096"),
    ("eagle-head-tied", eagle(config={"tie_word_embeddings": True},
                              **{"lm_head.weight": (128256, 4096)}), "replaces its head"),
    ("eagle-fc", eagle(**{"fc.weight": None}), "has no fc.weight"),
    ("eagle-fc", {**eagle(), "is_eagle3": True}, "8192. rather than .4096, 12288. for EAGLE3"),
    ("eagle-norm", {**eagle(), "enable_eagle_draft_input_norm": True}, "has no input_layernorm"),
    ("eagle-norm-unused", eagle(**{"layers.0.input_layernorm.weight": (4096,)}), "left out"),
    ("eagle-hidden-size", eagle(config={"hidden_size": 2048}), "2048, the target's 4096"),
    ("eagle3-token-tree", {**eagle(), "is_eagle3": True, "token_tree_config": {"0": [1]}}, "token"),
    ("eagle3-prefix-caching", {**eagle(), "is_eagle3": True, **PREFIX}, "exclude"),
    # LoRA: more below, with adapters on disk
    ("lora-entry", {"lora_config": {"target_modules": ["q_proj"], "rank": 8}}, "no entry 'rank'"),
    ("lora-adapter-form", {"lora_config": {"lora_ckpt_paths": ["one"]}}, "'one' is not of"),
    ("lora-adapter-twice", {"lora_config": {"lora_ckpt_paths": ["a:/x", "a:/y"]}}, "called 'a'"),
    ("lora-adapter-missing", {"lora_config": {"lora_ckpt_paths": {"a": "/nowhere"}}}, "/nowhere"),
    ("lora-none", {"lora_config": {"max_loras": 2}}, "neither an adapter nor"),
    ("lora-modules-absent", {"lora_config": {"target_modules": ["qproj"]}}, "none of .* qproj"),
    # quantisation and dtypes
    ("quantized-path", {**QUANTIZED, "quantized_checkpoints_path": None}, "without quant"),
    ("quantization-dtype", {**QUANTIZED, "quantization_dtype": "int4"}, "'int4' is unknown"),
    ("quantization-type", {**QUANTIZED, "quantization_type": "per_row"}, "'per_row' is unknown"),
    ("quantization-made", {**QUANTIZED, "quantization_type": "blockwise_symmetric"}, "made here"),
    ("quantized-mlp-dtype", {**QUANTIZED, **MLP_KERNEL, "sdk": "2.21"}, "needs f8e4m3"),
    ("quantized-qkv-kernel", {**QUANTIZED, "qkv_kernel_enabled": True,
                              "modules_to_not_convert": None}, "needs modules_to_not_convert"),
    ("quantized-whole", {**QUANTIZED, "modules_to_not_convert": None}, "lm_head is quantised"),
    ("quantized-fp8", {**QUANTIZED, "quantization_dtype": "f8e4m3",
                       "environ": {"UNSAFE_FP8FNCAST": "1"}}, "without XLA_HANDLE_SPECIAL_SCALAR,"),
    ("quantized-already", {"model": llama(quantization_config={"quant_method": "awq"})}, "awq"),
    ("rmsnorm-quantize-kernel", {"rmsnorm_quantize_kernel_enabled": True}, "quantized_mlp_kernel"),
    ("activation-quantization-type", {"activation_quantization_type": "often"}, "'often'"),
    ("activation-quantization-kernels", {"activation_quantization_type": "dynamic",
                                         "mlp_kernel_enabled": True}, "with MLP kernels"),
    ("attention-dtype", {"attention_dtype": "float32"}, "differs from torch_dtype bfloat16"),
    ("cast-type", {"cast_type": "all"}, "'all'"),
    ("dtype-range", {"torch_dtype": "float16"}, "65504"),
    ("dtype-mixed", {"torch_dtype": "float32", "cast_type": "as-declared"}, "keeps BF16"),
    # NeuronConfig
    ("value-unusable", {"attention_dp_degree": 0}, "attention_dp_degree must be .* 1 or more"),
    ("value-unusable", {"local_ranks_size": ["x"]}, "and is .'x'."),
    ("value-unusable", {"speculation_length": -1}, "0 or more, and is -1"),
    ("value-unusable", {"quantized": True, "quantization_dtype": 8}, "unusable value"),
    ("value-unusable", {"lora_config": {"max_lora_rank": 0}}, "max_lora_rank is no number"),
    ("argument-unknown", {"tensor_parallel": 8}, "SDK 2.29 has no tensor_parallel"),
    ("argument-unknown", {"sdk": "2.21", "cp_degree": 2}, "SDK 2.21 has no cp_degree"),
    ("argument-computed", {"kv_cache_tiling": True}, "kv_cache_tiling is computed"),
    ("fused-qkv-dropped", {"activation_quantization_type": "dynamic", "fused_qkv": True}, "false"),
    ("kernel-deprecated", {"logical_neuron_cores": 1}, "logical_neuron_cores is deprecated"),
    ("chunked-prefill-layout", {**CHUNKED, "is_block_kv_layout": False}, "is_block_kv_layout"),
    ("chunked-prefill-batch", {**CHUNKED, "batch_size": 2, "chunked_prefill_config":
                               {"tkg_model_enabled": False}}, "batch_size 2"),
    ("chunked-prefill-unsupported", CHUNKED, "NotImplementedError"),
    ("chunked-prefill-unsupported", {**CHUNKED, "sdk": "2.28"}, "NotImplementedError"),
    ("chunked-attention", {"model": CHUNKS, **PREFIX}, "is_prefix_caching True .* only False"),
    ("chunked-attention", {"model": CHUNKS, "padding_side": "left"}, "chunks of 512 .* 1024"),
    ("chunked-attention", {"model": CHUNKS, "sdk": "2.24", "cp_degree": 2}, "only 1 is"),
    ("chunked-attention", {"model": llama(attention_chunk_size=511), "cp_degree": 2}, "divide"),
    ("model-attributes", {"model": llama(architectures=["Qwen3MoeForCausalLM"])},
     "llama. gives no .*num_experts"),
    ("tensor-capture", {"tensor_capture_config": {}}, "needs an on_device_sampling_config"),
    ("cp-degree", {"cp_degree": 3}, "tp_degree 8 is not a multiple of cp_degree 3"),
    ("attention-dp-degree", {**CONTINUOUS, "attention_dp_degree": 3}, "multiple of .* 3"),
    ("attention-dp-cp", {**CONTINUOUS, "attention_dp_degree": 4, "cp_degree": 2}, "cp_degree 2"),
    ("attention-dp-batching", {**CONTINUOUS, "is_continuous_batching": False}, "continuous"),
    ("attention-dp-cache-update", {**CONTINUOUS, **BLOCK_KERNEL,
                                   "attn_block_tkg_nki_kernel_cache_update": True}, "degree > 1"),
    ("strided-cp-kernel", {"strided_context_parallel_kernel_enabled": True}, "without cp_degree"),
    ("mlp-cp-degree", {"mlp_cp_degree": 2}, "without sequence_parallel_enabled"),
    ("full-model-shuffled", {"is_full_model_shuffled": True}, "without is_mxfp4_compute"),
    ("ep-dispatch", {"ep_dispatch_cc_option": "RS_AG"}, "tp_degree 8 > batch size 1"),
    ("tkg-kernels-exclusive", {"sdk": "2.27", **BLOCK_KERNEL, "attn_tkg_nki_kernel_enabled": True},
     "more than one"),
    ("tkg-kernels-exclude", {**BLOCK_KERNEL, "flash_decoding_enabled": True}, "flash_decoding"),
    ("block-tkg-kernel", {"attn_block_tkg_nki_kernel_enabled": True}, "needs qkv_kernel_enabled"),
    ("block-tkg-kernel-parts", {"attn_block_tkg_nki_kernel_cache_update": True}, "needs attn"),
    ("block-cte-kernel", {"attn_block_cte_nki_kernel_enabled": True}, "out_proj_kernel_enabled to"),
    ("block-cte-kernel", {"sdk": "2.26", "attn_block_cte_nki_kernel_enabled": True}, "alone"),
    ("fuse-rope-kernel", {"qkv_cte_nki_kernel_fuse_rope": True}, "qkv_nki_kernel_enabled"),
    ("k-cache-transposed", {"k_cache_transposed": True, **PREFIX}, "is_block_kv_layout"),
    ("window-size", {"model": llama(sliding_window=4096), "windowed_context_encoding_size": 512},
     "512 is not the model's sliding_window 4096"),
    ("model-class", {"model": llama(architectures=["FalconForCausalLM"])}, "FalconForCausalLM"),
    ("level-unknown", {"sdk": None}, "newer than this version"),
    # several nodes
    ("ranks", {"start_rank_id": 4}, "4 and local_ranks_size 8 reach beyond world_size 8"),
    ("nodes-address", {**SECOND_NODE}, "32 of 64 ranks"),
    ("nodes-variables", {"environ": {**LAUNCH, "WORLD_SIZE": "two"}}, "WORLD_SIZE is no number"),
    ("nodes-rank", {**SECOND_NODE, "environ": {**LAUNCH, "NEURON_RANK_ID": "2"}}, "WORLD_SIZE 2"),
    ("nodes-differ", {"environ": LAUNCH, "tp_degree": 64, "local_ranks_size": 32},
     r"= \(32, 32, 64\), and NeuronConfig has \(0, 32, 64\)"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "request_", "words"), CASES, ids=[f"{n}-{case[0]}" for n, case in enumerate(CASES)]
)
def test_a_request_breaks_a_rule(rule: str, request_: dict[str, Any], words: str) -> None:
    found = named(examine_request(**request_), rule)
    assert any(re.search(words, finding.message) for finding in found), found
    assert {finding.severity for finding in found} == {RULES[rule].severity}


SOUND: dict[str, dict[str, Any]] = {
    "plain": {},
    "eagle": eagle(),
    "eagle3": {**eagle(**{"fc.weight": (4096, 12288), "layers.0.input_layernorm.weight": (4096,)}),
               "is_eagle3": True, "enable_eagle_draft_input_norm": True},
    "prefix caching": {**PREFIX, "context_encoding_buckets": [512, 1024], "prefix_buckets": [512]},
    "quantised": {**QUANTIZED, "quantization_type": "per_channel_symmetric"},
    "fp8": {**QUANTIZED, "quantization_dtype": "f8e4m3", "environ": FP8},
    "second node": {"tp_degree": 32, "world_size": 64, "start_rank_id": 32,
                    "local_ranks_size": 32, "environ": LAUNCH},
    "attention data parallel": CONTINUOUS,
    "kernels": {**BLOCK_KERNEL, "attn_block_tkg_nki_kernel_cache_update": True},
    "trn2": {"target": "trn2", "tp_degree": 32},
    "buckets": {"context_encoding_buckets": [256, 1024], "token_generation_buckets": [1024]},
    "lora": {"lora_config": {"target_modules": ["q_proj", "v_proj"]}},
}  # fmt: skip


@pytest.mark.parametrize("request_", SOUND.values(), ids=SOUND)
def test_nothing_speaks_against_a_sound_request(request_: dict[str, Any]) -> None:
    assert [f for f in examine_request(**request_) if f.severity != "note"] == []


LoraCase = tuple[str, Callable[[Path], dict[str, Any]], str]
LORA_CASES: list[LoraCase] = [
    ("lora-adapter-config", lambda at: paths(a=adapter(at, r=None)), "names no rank"),
    ("lora-adapter-config", lambda at: paths(a=adapter(at, target_modules="all")), "names no"),
    ("lora-adapter-config", lambda at: paths(a=str(at)), "no readable adapter_config.json"),
    ("lora-adapter-weights", lambda at: paths(a=adapter(at, weights=None)), "has no weights"),
    ("lora-adapter-pickle", lambda at: paths(a=adapter(at, weights="adapter_model.bin")), "pickle"),
    ("lora-base-model", lambda at: paths(a=adapter(at, base_model_name_or_path="x/Qwen")), "x/Qw"),
    ("lora-rank", lambda at: {**paths(a=adapter(at, r=64)), "max_lora_rank": 32}, "above .* 32"),
    ("lora-max-loras", lambda at: paths(a=adapter(at / "a"), b=adapter(at / "b")), "2 .* 1"),
    ("lora-max-cpu", lambda at: {**paths(a=adapter(at / "a"), b=adapter(at / "b")),
                                 "dynamic_multi_lora": True, "max_cpu_loras": 1}, "2 adapters"),
    ("lora-modules", lambda at: {**paths(a=adapter(at, target_modules=["q_proj", "o_proj"])),
                                 "target_modules": ["q_proj"]}, "has o_proj, which"),
    ("lora-modules-order", lambda at: paths(a=adapter(at, target_modules=["q_proj", "o_proj"])),
     "hash seed"),
]  # fmt: skip


def paths(**adapters: str) -> dict[str, Any]:
    return {"lora_ckpt_paths": adapters}


@pytest.mark.parametrize(
    ("rule", "make", "words"),
    LORA_CASES,
    ids=[f"{n}-{case[0]}" for n, case in enumerate(LORA_CASES)],
)
def test_an_adapter_breaks_a_rule(rule: str, make: Any, words: str, tmp_path: Path) -> None:
    found = named(examine_request(lora_config=make(tmp_path)), rule)
    assert any(re.search(words, finding.message) for finding in found), found


def test_a_sound_adapter(tmp_path: Path) -> None:
    config = {**paths(a=adapter(tmp_path)), "target_modules": ["q_proj"]}
    assert [f for f in examine_request(lora_config=config) if f.severity != "note"] == []


def test_medusa_needs_its_heads(tmp_path: Path) -> None:
    model = snapshot(LLAMA_8B, root=tmp_path)
    assert named(examine_request(model=model, is_medusa=True), "medusa-heads")
    (tmp_path / "medusa_heads.pt").write_bytes(b"")
    assert not named(examine_request(model=model, is_medusa=True), "medusa-heads")


def test_a_quantised_checkpoint_of_another_model(tmp_path: Path) -> None:
    arguments = {**QUANTIZED, "quantized_checkpoints_path": str(tmp_path)}
    assert not named(examine_request(**arguments), "quantized-stale")
    (tmp_path / "neuron-artifacts.json").write_text('{"weights": {}, "settings": {}}')
    assert named(examine_request(**arguments), "quantized-stale")


def test_every_rule_has_a_case() -> None:
    tried = {case[0] for case in (*CASES, *LORA_CASES)} | {"medusa-heads", "quantized-stale"}
    assert tried == set(RULES)


def test_all_findings_come_at_once_worst_first() -> None:
    found = examine_request(tp_degree=64, cp_degree=3, cast_type="all", foo=1)
    assert {"cores", "cp-degree", "cast-type", "argument-unknown"} <= {f.rule for f in found}
    ranks = ["error", "warning", "note"]
    severities = [ranks.index(finding.severity) for finding in found]
    assert severities == sorted(severities)


FIELDS = sorted({*field_defaults(LLAMA, level_of("2.29"))} - {"target"})  # examine_request's own
ODD = st.sampled_from([0, 1, -1, 3, 2.5, True, None, "", "x", "bfloat16", [], [0], ["x"], {}])


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from(FIELDS), ODD,
                       max_size=4))  # fmt: skip
def test_no_value_makes_preflight_fail(arguments: dict[str, Any]) -> None:
    try:
        findings = examine_request(**arguments)
    except SpecError:
        return  # the fields themselves cannot be filled in
    assert all(finding.rule in RULES for finding in findings)


def named(findings: tuple[Finding, ...], rule: str) -> list[Finding]:
    return [finding for finding in findings if finding.rule == rule]

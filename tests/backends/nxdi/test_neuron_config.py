"""NeuronConfig's fields, rule by rule."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from neuron_artifacts.backends.nxdi.families import FAMILIES
from neuron_artifacts.backends.nxdi.levels import TRANSFORMERS, Host, level_of, read_table
from neuron_artifacts.backends.nxdi.neuron_config import build_neuron_config
from neuron_artifacts.errors import SpecError

LLAMA, MIXTRAL = FAMILIES["LlamaForCausalLM"], FAMILIES["MixtralForCausalLM"]

# Computed whatever is given, or replaced by the class; 2.21 takes async_mode from "async".
COMPUTED = {
    "2.21": {"async_mode", "kv_cache_tiling", "weights_to_skip_layout_optimization"},
    "2.24": {
        "enable_token_tree", "is_chunked_prefill", "is_prefill_stage", "kv_cache_tiling",
        "tile_cc", "weights_to_skip_layout_optimization", "normalize_top_k_affinities",
    },
    "2.29": {
        "enable_long_context_mode", "enable_token_tree", "is_chunked_prefill",
        "is_hidden_dim_shuffled", "is_intermediate_dim_shuffled", "is_prefill_stage",
        "kv_cache_tiling", "kv_cache_update_with_kernel", "normalize_top_k_affinities", "tile_cc",
    },
}  # fmt: skip


def build(sdk: str = "2.29", platform: str = "trn1", family: Any = LLAMA, **kwargs: Any) -> Any:
    return build_neuron_config(kwargs, family=family, level=level_of(sdk), host=Host(platform))


@pytest.mark.parametrize("family", [LLAMA, MIXTRAL])
@pytest.mark.parametrize("sdk", TRANSFORMERS)
def test_no_arguments_give_the_dumped_defaults(sdk: str, family: Any) -> None:
    tables = read_table(f"neuron-config-{sdk}")
    expected = {**tables["neuron"], **(tables["moe"] if family.is_moe else {})}
    assert build(sdk, family=family) == expected


@pytest.mark.parametrize("sdk", COMPUTED)
def test_every_argument_counts_unless_it_is_computed(sdk: str) -> None:
    tables = read_table(f"neuron-config-{sdk}")
    ignored = set()
    for name, default in {**tables["neuron"], **tables["moe"]}.items():
        if name in ("blockwise_matmul_config", "router_config", "overrides_torch_dtype"):
            continue
        seen = 0
        for other in (not default, 3, "float16", ["x"], {"x": 1}, 0.5):
            if other == default:
                continue
            try:
                changed = build(sdk, family=MIXTRAL, **{name: other})
            except SpecError:
                seen += 1  # refused, so it was looked at
            else:
                seen += changed[name] != default
        if not seen:
            ignored.add(name)
    # Either not settable at all, or given through another argument.
    assert ignored == COMPUTED[sdk]


@pytest.mark.parametrize(
    ("kwargs", "expected"),
    [
        ({"seq_len": 512}, {
            "n_active_tokens": 512, "n_positions": 512, "max_context_length": 512,
            "max_length": 512, "pa_block_size": 512, "buckets": [512], "max_new_tokens": None,
        }),
        ({"seq_len": 512, "max_context_length": 128}, {"max_new_tokens": 384}),
        ({"max_new_tokens": 0}, {"max_new_tokens": None}),
        ({"batch_size": 4}, {
            "ctx_batch_size": 4, "tkg_batch_size": 4, "max_batch_size": 4, "spec_batch_size": 4,
            "kv_cache_batch_size": 4, "pa_num_blocks": 4,
        }),
        ({"tp_degree": 4, "pp_degree": 2}, {"world_size": 8, "local_ranks_size": 8}),
        ({"world_size": 8, "tp_degree": 4}, {"world_size": 8, "local_ranks_size": 8}),
        ({"torch_dtype": "float32"}, {
            "torch_dtype": "float32", "overrides_torch_dtype": True, "rpl_reduce_dtype": None,
        }),
        ({"overrides_torch_dtype": True}, {"overrides_torch_dtype": False}),
        ({"context_encoding_buckets": [128, 64]}, {"context_encoding_buckets": [64, 128]}),
        ({"enable_eagle_speculation": True, "seq_len": 256}, {
            "enable_fused_speculation": True, "kv_cache_tiling": True,
        }),
        ({"enable_fused_speculation": True, "seq_len": 250}, {"kv_cache_tiling": False}),
        ({"enable_fused_speculation": True}, {"kv_cache_tiling": False}),
        ({"seq_len": 32768}, {"enable_long_context_mode": True, "scratchpad_page_size": 1024}),
        ({"scratchpad_page_size": "256"}, {"scratchpad_page_size": 256}),
        ({"quantized_mlp_kernel_enabled": True}, {
            "quantization_type": "per_channel_symmetric", "quantization_dtype": "f8e4m3",
            "tile_cc": True,
        }),
        ({"activation_quantization_type": "dynamic", "fused_qkv": True}, {"fused_qkv": False}),
        ({"attn_tkg_nki_kernel_enabled": True}, {"attn_block_tkg_nki_kernel_enabled": True}),
        ({"mlp_tkg_nki_kernel_enabled": True}, {"mlp_kernel_enabled": True, "tile_cc": True}),
        ({"token_tree_config": {"0": [1]}}, {"enable_token_tree": True}),
        ({"chunked_prefill_config": {"x": 1}, "is_block_kv_layout": True}, {
            "is_chunked_prefill": True,
            "chunked_prefill_config": {
                "max_num_seqs": 0, "tkg_model_enabled": True, "kernel_q_tile_size": 128,
                "kernel_kv_tile_size": 1024,
            },
        }),
        ({"tensor_capture_config": {"auto_capture_moe_tensors": True},
          "on_device_sampling_config": {}}, {"output_logits": True}),
        ({"attention_dp_degree": 2, "tp_degree": 2, "batch_size": 4,
          "is_continuous_batching": True},
         {"kv_cache_batch_size": 2, "kv_cache_padding_size": 1}),
        ({"logical_neuron_cores": 2}, {"logical_nc_config": 2, "lm_head_pad": True}),
        ({"logical_nc_config": -1, "logical_neuron_cores": 2}, {"logical_nc_config": 1}),
        ({"lora_config": {"dynamic_multi_lora": True}}, {
            "weights_to_skip_layout_optimization": [".*lora.*"],
        }),
    ],
)  # fmt: skip
def test_derived_fields(kwargs: dict[str, Any], expected: dict[str, Any]) -> None:
    fields = build(**kwargs)
    assert {name: fields[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("sdk", "kwargs", "field", "value"),
    [
        ("2.21", {"async": True}, "async_mode", True),
        ("2.21", {"logical_neuron_cores": 2}, "logical_neuron_cores", 2),
        ("2.22", {}, "save_sharded_checkpoint", True),
        ("2.23", {}, "save_sharded_checkpoint", False),
        ("2.23", {"torch_dtype": "float32"}, "rpl_reduce_dtype", "float32"),
        ("2.23", {"sequence_parallel_enabled": True}, "target_sequence_parallel_enabled", True),
        ("2.23", {"attn_block_tkg_nki_kernel_enabled": True},
         "attn_block_tkg_nki_kernel_cache_update", True),
        ("2.27", {"weights_to_skip_layout_optimization": ["x"]},
         "weights_to_skip_layout_optimization", []),
        ("2.28", {"weights_to_skip_layout_optimization": ["x"]},
         "weights_to_skip_layout_optimization", ["x"]),
        ("2.28", {"token_generation_batches": 1}, "token_generation_batches", [1]),
        ("2.24", {"quantized_mlp_kernel_enabled": True, "cc_pipeline_tiling_factor": 1},
         "tile_cc", False),
    ],
)  # fmt: skip
def test_rules_of_one_level(sdk: str, kwargs: dict[str, Any], field: str, value: Any) -> None:
    assert build(sdk, **kwargs)[field] == value


@pytest.mark.parametrize(
    ("sdk", "target", "cores", "pads"),
    [("2.22", "trn2", 2, None), ("2.25", "trn2", 2, True), ("2.29", "trn3", 2, True),
     ("2.29", "inf2", 1, False)],
)  # fmt: skip
def test_platform_defaults(sdk: str, target: str, cores: int, pads: bool | None) -> None:
    fields = build(sdk, target, on_device_sampling_config={})
    assert (fields["logical_nc_config"], fields.get("lm_head_pad")) == (cores, pads)
    kernel = fields["on_device_sampling_config"].get("top_k_kernel_enabled")
    assert bool(kernel) == (sdk == "2.29" and cores == 2)


def test_only_one_level_skips_the_warm_up() -> None:
    skipping = [sdk for sdk in TRANSFORMERS if build(sdk, "trn2").get("skip_warmup")]
    assert skipping == ["2.23"]


def test_experts_have_their_own_fields() -> None:
    fields = build(
        family=MIXTRAL, capacity_factor=2, disable_normalize_top_k_affinities=True,
        router_dtype="bfloat16", hybrid_sharding_config={"moe_cte_tp_degree": 4},
        blockwise_matmul_config={"block_size": 256, "junk": 1},
    )  # fmt: skip
    assert (fields["capacity_factor"], fields["normalize_top_k_affinities"]) == (2.0, False)
    assert fields["router_config"] == {"act_fn": "softmax", "dtype": "bfloat16"}
    assert fields["hybrid_sharding_config"]["moe_cte_tp_degree"] == 4
    assert fields["blockwise_matmul_config"]["block_size"] == 256
    assert "junk" not in fields["blockwise_matmul_config"]


@pytest.mark.parametrize(
    ("sdk", "kwargs"),
    [
        ("2.24", {"quantized": True}),
        ("2.24", {"quantized": True, "quantized_checkpoints_path": "q",
                  "quantization_dtype": "f8e4m3fn"}),
        ("2.24", {"context_encoding_buckets": [256]}),
        ("2.24", {"token_generation_buckets": []}),
        ("2.24", {"torch_dtype": "float64"}),
        ("2.24", {"cast_type": "other"}),
        ("2.24", {"attention_dtype": "float32"}),
        ("2.24", {"tp_degree": 4, "cp_degree": 3}),
        ("2.24", {"is_medusa": True, "async_mode": True}),
        ("2.22", {"speculation_length": 3, "async_mode": True}),
        ("2.22", {"is_chunked_prefill": True}),
        ("2.24", {"chunked_prefill_config": {}}),
        ("2.24", {"attn_block_tkg_nki_kernel_enabled": True}),
        ("2.24", {"k_cache_transposed": True, "is_block_kv_layout": True}),
        ("2.24", {"rmsnorm_quantize_kernel_enabled": True}),
        ("2.24", {"quantized_mlp_kernel_enabled": True, "qkv_kernel_enabled": True}),
        ("2.25", {"max_context_length": 256}),
        ("2.25", {"attention_dp_degree": 2, "tp_degree": 2}),
        ("2.26", {"strided_context_parallel_kernel_enabled": True}),
        ("2.27", {"mlp_cp_degree": 2}),
        ("2.27", {"is_full_model_shuffled": True}),
        ("2.27", {"qkv_cte_nki_kernel_fuse_rope": True}),
        ("2.27", {"tensor_capture_config": {}}),
        ("2.28", {"activation_quantization_type": "STATIC"}),
        ("2.28", {"token_generation_batches": [1], "is_prefix_caching": True}),
        ("2.28", {"ep_dispatch_cc_option": "RS_AG", "tp_degree": 2}),
        ("2.29", {"attn_block_cte_nki_kernel_enabled": True}),
        ("2.29", {"lora_config": {"not_an_option": 1}}),
    ],
)  # fmt: skip
def test_what_the_class_refuses(sdk: str, kwargs: dict[str, Any]) -> None:
    with pytest.raises(SpecError):
        build(sdk, **kwargs)


def adapter(folder: Path, **config: Any) -> str:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return str(folder)


def test_lora_reads_its_adapters(tmp_path: Path) -> None:
    path = adapter(tmp_path / "a", r=64, target_modules=["q_proj"])
    lora = build("2.24", lora_config={"lora_ckpt_paths": [f"one:{path}"]})["lora_config"]
    assert (lora["max_lora_rank"], lora["target_modules"]) == (64, ["q_proj"])
    assert lora["lora_ckpt_paths"] == {"one": path}


def test_lora_modules_in_set_order_cannot_be_known(tmp_path: Path) -> None:
    path = adapter(tmp_path / "a", r=8, target_modules=["q_proj", "v_proj"])
    with pytest.raises(SpecError, match="hash seed"):
        build(lora_config={"lora_ckpt_paths": {"a": path}})
    modules = ["v_proj", "q_proj", "k_proj"]
    given = {"lora_ckpt_paths": {"a": path}, "target_modules": modules}
    assert build(lora_config=given)["lora_config"]["target_modules"] == modules


def test_a_lora_adapter_without_end_is_not_read(tmp_path: Path) -> None:
    path = adapter(tmp_path / "a", r=64, target_modules=["q_proj"])
    config = tmp_path / "a" / "adapter_config.json"
    config.write_bytes(config.read_bytes() + b" " * (1 << 20))
    with pytest.raises(SpecError, match="no readable"):
        build("2.24", lora_config={"lora_ckpt_paths": [f"one:{path}"]})


@pytest.mark.parametrize("paths", [["no-colon"], {"a": "/does/not/exist"}, ["a:x", "a:y"]])
def test_lora_adapters_that_are_not_there(paths: Any) -> None:
    with pytest.raises(SpecError):
        build(lora_config={"lora_ckpt_paths": paths})

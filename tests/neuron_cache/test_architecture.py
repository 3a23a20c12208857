"""Configurations against what four releases of transformers made of them."""

from __future__ import annotations

from typing import Any

import pytest

from neuron_artifacts.neuron_cache.architecture import (
    infer_task,
    model_types,
    same_architecture,
    same_pipeline,
)
from tests.neuron_cache.caches import ENTRY_CONFIGS
from tests.neuron_cache.model_configs import (
    BERT,
    BLOOM,
    CLASSIFIER,
    CLIP,
    CLIP_TEXT,
    FLAN,
    GEMMA3,
    LLAMA,
    MIXTRAL,
    MODERN,
    MODERN_FLAN,
    MODERN_PHI3,
    PHI3,
    PIPELINE,
    QWEN2,
    QWEN3,
    SINGLE,
    SMALL,
    TUNED,
    UNET,
    VAE,
    VIT,
    XL_UNET,
)

ASKED = {
    **SINGLE, "modern": MODERN, "gemma3": GEMMA3, "modern_flan": MODERN_FLAN,
    "modern_phi3": MODERN_PHI3,
}  # fmt: skip
SAME = [
    {"llama", "tuned", "modern"}, {"bert", "classifier"}, {"gemma3_text", "gemma3"},
    {"flan", "modern_flan"}, {"phi3", "modern_phi3"},
]  # fmt: skip
PAIRS = [
    (release, cached, asked)
    for release, configs in ENTRY_CONFIGS.items()
    for cached in configs
    for asked in ASKED
]


@pytest.mark.parametrize(("release", "cached", "asked"), PAIRS)
def test_an_entry_is_found_from_any_spelling_and_no_other(
    release: str, cached: str, asked: str
) -> None:
    expected = cached == asked or any({cached, asked} <= names for names in SAME)
    assert same_architecture(ASKED[asked], ENTRY_CONFIGS[release][cached]) is expected


SHAPING = [
    (LLAMA, "llama", {"hidden_size": 2048}),
    (LLAMA, "llama", {"num_hidden_layers": 16}),
    (LLAMA, "llama", {"num_key_value_heads": 4}),
    (LLAMA, "llama", {"vocab_size": 128257}),
    (LLAMA, "llama", {"rope_theta": 10000.0}),
    (LLAMA, "llama", {"rope_scaling": None}),
    (LLAMA, "llama", {"rope_scaling": {**LLAMA["rope_scaling"], "factor": 32.0}}),
    (LLAMA, "llama", {"rms_norm_eps": 1e-6}),
    (LLAMA, "llama", {"attention_bias": True}),
    (LLAMA, "llama", {"mlp_bias": True}),
    (LLAMA, "llama", {"tie_word_embeddings": True}),
    (LLAMA, "llama", {"head_dim": 64}),
    (LLAMA, "llama", {"quantization_config": {"quant_method": "awq", "bits": 4}}),
    (SMALL, "small", {"rope_theta": 500000.0}),
    (SMALL, "small", {"head_dim": 128}),
    (MIXTRAL, "mixtral", {"num_local_experts": 4}),
    (MIXTRAL, "mixtral", {"sliding_window": 4096}),
    (QWEN2, "qwen2", {"use_sliding_window": True}),
    (QWEN3, "qwen3", {"head_dim": 64}),
    (PHI3, "phi3", {"rope_scaling": None}),
    (BERT, "bert", {"type_vocab_size": 1}),
    (BLOOM, "bloom", {"n_embed": 2048}),
    (BLOOM, "bloom", {"num_attention_heads": 32}),
    (VIT, "vit", {"pooler_output_size": 512}),
    (CLIP, "clip", {"vision_config": {**CLIP["vision_config"], "patch_size": 16}}),
    (FLAN, "flan", {"num_decoder_layers": 4}),
    (MODERN_FLAN, "flan", {"scale_decoder_outputs": True}),
    (MODERN_PHI3, "phi3", {"partial_rotary_factor": 0.5}),
]


@pytest.mark.parametrize(("config", "cached", "change"), SHAPING)
def test_a_field_that_shapes_the_graphs_tells_models_apart(
    config: dict[str, Any], cached: str, change: dict[str, Any]
) -> None:
    entry = ENTRY_CONFIGS["4.57.6"][cached]
    assert same_architecture(config, entry)
    assert not same_architecture({**config, **change}, entry)


@pytest.mark.parametrize(
    "change",
    [
        {"torch_dtype": "float16"}, {"dtype": "float32"}, {"eos_token_id": 5}, {"use_cache": False},
        {"attention_dropout": 0.3}, {"initializer_range": 1.0}, {"_name_or_path": "x"},
        {"transformers_version": "9.9"}, {"architectures": ["X"]}, {"head_dim": None},
        {"head_dim": 128}, {"unsloth_fixed": True}, {"output_attentions": True},
        {"quantization_config": None}, {"some_new_field": 3},
    ],
)  # fmt: skip
def test_what_shapes_no_graph_does_not(change: dict[str, Any]) -> None:
    for release in ("4.43.4", "4.57.6"):
        assert same_architecture({**LLAMA, **change}, ENTRY_CONFIGS[release]["llama"])


def test_an_empty_list_of_llama_4_is_one_that_its_class_fills_in() -> None:
    """As Llama 4 Scout was published; ``Llama4TextConfig`` takes ``[]`` for nothing said."""
    text = {
        "model_type": "llama4_text", "hidden_size": 5120, "intermediate_size": 8192,
        "num_hidden_layers": 4, "num_attention_heads": 40, "vocab_size": 202048,
    }  # fmt: skip
    published = {"model_type": "llama4", "text_config": {**text, "no_rope_layers": []}}
    entry = {**text, "no_rope_layers": [1, 1, 1, 0], "moe_layers": [0, 1, 2, 3]}
    assert same_architecture(published, entry, task="text-generation")
    other = {**published, "text_config": {**text, "no_rope_layers": [1, 1, 1, 1]}}
    assert not same_architecture(other, entry, task="text-generation")


@pytest.mark.parametrize("unused", [False, None])
def test_a_sliding_window_that_no_layer_uses_does_not_count(unused: bool | None) -> None:
    config = {**QWEN2, "use_sliding_window": unused, "sliding_window": 131072}
    assert same_architecture(config, ENTRY_CONFIGS["4.57.6"]["qwen2"])


def test_the_number_of_labels_counts_for_classification_only() -> None:
    entry = ENTRY_CONFIGS["4.57.6"]["classifier"]
    assert same_architecture(CLASSIFIER, entry, task="text-classification")
    assert not same_architecture(BERT, entry, task="text-classification")
    assert same_architecture(BERT, entry, task="fill-mask")


def test_an_entry_cannot_leave_its_size_to_a_default() -> None:
    assert not same_architecture(LLAMA, {"model_type": "llama", "rope_theta": 500000.0})


def test_an_unknown_model_type_is_compared_by_what_both_say() -> None:
    asked = {"model_type": "novel", "hidden_size": 64, "added_later": 3}
    assert same_architecture(asked, {"model_type": "novel", "hidden_size": 64, "eps": 1e-5})
    assert not same_architecture(asked, {"model_type": "novel", "hidden_size": 65})


@pytest.mark.parametrize(
    ("model_type", "name", "computed", "other"),
    [
        ("opt", "word_embed_proj_dim", 768, 512),
        ("roformer", "embedding_size", 768, 128),
        ("vit", "pooler_output_size", 768, 512),
        ("t5", "num_decoder_layers", 12, 6),
        ("llama", "num_key_value_heads", 12, 4),
        ("qwen3_moe", "mlp_only_layers", [], [0]),
    ],
)
def test_a_null_is_what_its_class_makes_of_it(
    model_type: str, name: str, computed: object, other: object
) -> None:
    asked = {"model_type": model_type, "hidden_size": 768, "num_attention_heads": 12,
             "num_layers": 12}  # fmt: skip
    if name == "num_key_value_heads":
        asked[name] = None
    entry = {**asked, "some_default": 1}
    assert same_architecture(asked, {**entry, name: computed})
    assert not same_architecture(asked, {**entry, name: other})


def test_the_parts_of_a_composite_model_are_compared_by_what_both_say() -> None:
    asked = {
        "model_type": "clip", "projection_dim": 512, "text_config": {"hidden_size": 512},
        "vision_config": {"hidden_size": 768, "patch_size": 32},
    }  # fmt: skip
    cached = {
        "model_type": "clip", "text_config": {"hidden_size": 512, "vocab_size": 49408},
        "vision_config": {"hidden_size": 768, "patch_size": 32, "dropout": 0.0},
    }  # fmt: skip
    assert same_architecture(asked, cached)
    assert not same_architecture({**asked, "text_config": {"hidden_size": 768}}, cached)
    assert not same_architecture(
        {**asked, "vision_config": {"hidden_size": 768, "patch_size": 16}}, cached
    )


def test_the_text_part_of_a_composite_model_is_meant_for_text_generation_only() -> None:
    entry = ENTRY_CONFIGS["4.57.6"]["clip_text"]
    asked = {"model_type": "clip", "text_config": CLIP_TEXT}
    assert same_architecture(asked, entry, task="text-generation")
    assert not same_architecture(asked, entry, task="feature-extraction")


def test_pipelines_are_compared_without_auto_encoders() -> None:
    cached = {"text_encoder": CLIP_TEXT, "unet": {**UNET, "neuron": {}}, "vae_decoder": {"x": 1}}
    assert same_pipeline(PIPELINE, cached)
    assert same_pipeline({**PIPELINE, "vae": {**VAE, "latent_channels": 8}}, cached)
    assert not same_pipeline({**PIPELINE, "unet": XL_UNET}, cached)
    assert not same_pipeline(PIPELINE, {**cached, "controlnet_0": UNET})
    assert not same_pipeline(PIPELINE, {"unet": UNET})


def test_an_encoder_decoder_model_is_found_in_its_two_parts() -> None:
    config = {"model_type": "t5", "d_model": 512, "num_layers": 6, "is_encoder_decoder": True}
    parts = {
        "encoder": {**config, "is_encoder_decoder": False},
        "decoder": {**config, "is_decoder": True},
    }
    assert same_pipeline(config, parts)
    assert not same_pipeline({**config, "d_model": 768}, parts)
    assert not same_pipeline({**config, "tie_word_embeddings": False}, parts)


def test_folders_and_tasks() -> None:
    assert model_types(GEMMA3) == {"gemma3", "gemma3_text"}
    assert model_types(PIPELINE) == {"stable-diffusion"}
    assert model_types({"transformer": {}}) == {"diffusion-transformer"}
    assert infer_task(LLAMA) == "text-generation"
    assert infer_task(BERT) == "fill-mask"
    assert infer_task({"architectures": ["BertModel"]}) == "feature-extraction"
    assert infer_task({"architectures": [3]}) is None
    assert infer_task({}) is None


def test_a_fine_tune_asks_for_the_same() -> None:
    for release in ("4.43.4", "4.51.3", "4.57.6"):
        assert same_architecture(TUNED, ENTRY_CONFIGS[release]["llama"])

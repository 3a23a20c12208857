"""config.json files as model repositories carry them: what a lookup starts from."""

from __future__ import annotations

from typing import Any

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
    "bos_token_id": 128000, "eos_token_id": 128001, "hidden_act": "silu", "hidden_size": 4096,
    "initializer_range": 0.02, "intermediate_size": 14336, "max_position_embeddings": 131072,
    "mlp_bias": False, "model_type": "llama", "num_attention_heads": 32, "num_hidden_layers": 32,
    "num_key_value_heads": 8, "pretraining_tp": 1, "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192, "rope_type": "llama3",
    },
    "rope_theta": 500000.0, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    "transformers_version": "4.43.0.dev0", "use_cache": True, "vocab_size": 128256,
}  # fmt: skip

TUNED: dict[str, Any] = {
    **{name: value for name, value in LLAMA.items() if name not in ("mlp_bias", "torch_dtype")},
    "_name_or_path": "org/base", "attention_dropout": 0.1, "dtype": "float32",
    "eos_token_id": [128001, 128008, 128009], "pad_token_id": 128004, "head_dim": 128,
    "transformers_version": "4.57.1", "unsloth_version": "2025.9", "use_cache": False,
}  # fmt: skip
"""A fine-tune of it, saved by another release of transformers."""

MODERN: dict[str, Any] = {
    **{n: v for n, v in LLAMA.items() if n not in ("rope_scaling", "rope_theta", "torch_dtype")},
    "dtype": "bfloat16", "head_dim": 128, "transformers_version": "5.0.0",
    "rope_parameters": {**LLAMA["rope_scaling"], "rope_theta": 500000.0},
}  # fmt: skip
"""The same architecture as transformers 5 saves it."""

SMALL: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "bos_token_id": 1, "eos_token_id": 2,
    "hidden_act": "silu", "hidden_size": 2048, "initializer_range": 0.02,
    "intermediate_size": 5632, "max_position_embeddings": 2048, "model_type": "llama",
    "num_attention_heads": 32, "num_hidden_layers": 22, "num_key_value_heads": 4,
    "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_scaling": None,
    "tie_word_embeddings": False, "torch_dtype": "bfloat16", "transformers_version": "4.35.0",
    "use_cache": True, "vocab_size": 32000,
}  # fmt: skip
"""A small Llama that leaves rope_theta, attention_bias and head_dim to their defaults."""

MIXTRAL: dict[str, Any] = {
    "architectures": ["MixtralForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 1,
    "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 4096, "initializer_range": 0.02,
    "intermediate_size": 14336, "max_position_embeddings": 32768, "model_type": "mixtral",
    "num_attention_heads": 32, "num_experts_per_tok": 2, "num_hidden_layers": 32,
    "num_key_value_heads": 8, "num_local_experts": 8, "output_router_logits": False,
    "rms_norm_eps": 1e-05, "rope_theta": 1000000.0, "router_aux_loss_coef": 0.02,
    "sliding_window": None, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    "transformers_version": "4.42.0.dev0", "use_cache": True, "vocab_size": 32000,
}  # fmt: skip

QWEN2: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 151643,
    "eos_token_id": 151645, "hidden_act": "silu", "hidden_size": 3584,
    "initializer_range": 0.02, "intermediate_size": 18944, "max_position_embeddings": 32768,
    "max_window_layers": 28, "model_type": "qwen2", "num_attention_heads": 28,
    "num_hidden_layers": 28, "num_key_value_heads": 4, "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0, "sliding_window": 131072, "tie_word_embeddings": False,
    "torch_dtype": "bfloat16", "transformers_version": "4.43.1", "use_cache": True,
    "use_sliding_window": False, "vocab_size": 152064,
}  # fmt: skip

QWEN3: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
    "bos_token_id": 151643, "eos_token_id": 151645, "head_dim": 128, "hidden_act": "silu",
    "hidden_size": 1024, "initializer_range": 0.02, "intermediate_size": 3072,
    "max_position_embeddings": 32768, "max_window_layers": 28, "model_type": "qwen3",
    "num_attention_heads": 16, "num_hidden_layers": 28, "num_key_value_heads": 8,
    "rms_norm_eps": 1e-06, "rope_scaling": None, "rope_theta": 1000000, "sliding_window": None,
    "tie_word_embeddings": True, "torch_dtype": "bfloat16", "transformers_version": "4.51.3",
    "use_cache": True, "use_sliding_window": False, "vocab_size": 151669,
}  # fmt: skip

PHI3: dict[str, Any] = {
    "architectures": ["Phi3ForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 1,
    "embd_pdrop": 0.0, "eos_token_id": 32000, "hidden_act": "silu", "hidden_size": 3072,
    "initializer_range": 0.02, "intermediate_size": 8192, "max_position_embeddings": 131072,
    "model_type": "phi3", "num_attention_heads": 32, "num_hidden_layers": 32,
    "num_key_value_heads": 32, "original_max_position_embeddings": 4096, "pad_token_id": 32000,
    "resid_pdrop": 0.0, "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "long_factor": [1.0 + i / 8 for i in range(48)], "short_factor": [1.0] * 48, "type": "su",
    },
    "rope_theta": 10000.0, "sliding_window": 262144, "tie_word_embeddings": False,
    "torch_dtype": "bfloat16", "transformers_version": "4.40.2", "use_cache": True,
    "vocab_size": 32064,
}  # fmt: skip

GEMMA3: dict[str, Any] = {
    "architectures": ["Gemma3ForConditionalGeneration"], "boi_token_index": 255999,
    "eos_token_id": [1, 106], "image_token_index": 262144, "initializer_range": 0.02,
    "mm_tokens_per_image": 256, "model_type": "gemma3", "torch_dtype": "bfloat16",
    "text_config": {
        "hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text",
        "num_hidden_layers": 34, "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024, "num_attention_heads": 8, "num_key_value_heads": 4,
        "head_dim": 256, "vocab_size": 262208,
    },
    "transformers_version": "4.50.0.dev0",
    "vision_config": {"hidden_size": 1152, "model_type": "siglip_vision_model"},
}  # fmt: skip

BERT: dict[str, Any] = {
    "architectures": ["BertForMaskedLM"], "attention_probs_dropout_prob": 0.1,
    "gradient_checkpointing": False, "hidden_act": "gelu", "hidden_dropout_prob": 0.1,
    "hidden_size": 768, "initializer_range": 0.02, "intermediate_size": 3072,
    "layer_norm_eps": 1e-12, "max_position_embeddings": 512, "model_type": "bert",
    "num_attention_heads": 12, "num_hidden_layers": 12, "pad_token_id": 0,
    "position_embedding_type": "absolute", "transformers_version": "4.6.0.dev0",
    "type_vocab_size": 2, "use_cache": True, "vocab_size": 30522,
}  # fmt: skip

CLASSIFIER: dict[str, Any] = {
    **BERT, "architectures": ["BertForSequenceClassification"],
    "id2label": {"0": "bad", "1": "fair", "2": "good"},
    "label2id": {"bad": 0, "fair": 1, "good": 2},
}  # fmt: skip

CLIP_TEXT: dict[str, Any] = {
    "architectures": ["CLIPTextModel"], "attention_dropout": 0.0, "bos_token_id": 0,
    "dropout": 0.0, "eos_token_id": 2, "hidden_act": "quick_gelu", "hidden_size": 768,
    "initializer_factor": 1.0, "initializer_range": 0.02, "intermediate_size": 3072,
    "layer_norm_eps": 1e-05, "max_position_embeddings": 77, "model_type": "clip_text_model",
    "num_attention_heads": 12, "num_hidden_layers": 12, "pad_token_id": 1,
    "projection_dim": 768, "torch_dtype": "float32", "transformers_version": "4.22.0.dev0",
    "vocab_size": 49408,
}  # fmt: skip

UNET: dict[str, Any] = {
    "_class_name": "UNet2DConditionModel", "_diffusers_version": "0.6.0", "act_fn": "silu",
    "attention_head_dim": 8, "block_out_channels": [320, 640, 1280, 1280],
    "center_input_sample": False, "cross_attention_dim": 768, "downsample_padding": 1,
    "flip_sin_to_cos": True, "freq_shift": 0, "in_channels": 4, "layers_per_block": 2,
    "mid_block_scale_factor": 1, "norm_eps": 1e-05, "norm_num_groups": 32, "out_channels": 4,
    "sample_size": 64,
}  # fmt: skip

XL_UNET: dict[str, Any] = {
    **UNET, "attention_head_dim": [5, 10, 20], "block_out_channels": [320, 640, 1280],
    "cross_attention_dim": 2048, "sample_size": 128, "addition_embed_type": "text_time",
}  # fmt: skip

VAE: dict[str, Any] = {"_class_name": "AutoencoderKL", "latent_channels": 4, "sample_size": 512}

BLOOM: dict[str, Any] = {
    "apply_residual_connection_post_layernorm": False, "architectures": ["BloomForCausalLM"],
    "attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": 2, "hidden_dropout": 0.0,
    "initializer_range": 0.02, "layer_norm_epsilon": 1e-05, "model_type": "bloom",
    "n_embed": 1024, "n_inner": None, "n_layer": 24, "num_attention_heads": 16,
    "offset_alibi": 100, "pad_token_id": 3, "pretraining_tp": 1, "seq_length": 2048,
    "skip_bias_add": True, "transformers_version": "4.20.0", "unk_token_id": 0,
    "use_cache": True, "vocab_size": 250880,
}  # fmt: skip
"""Two of its fields go by names that its class takes and does not keep."""

VIT: dict[str, Any] = {
    "architectures": ["ViTForImageClassification"], "attention_probs_dropout_prob": 0.0,
    "hidden_act": "gelu", "hidden_dropout_prob": 0.0, "hidden_size": 768, "image_size": 224,
    "initializer_range": 0.02, "intermediate_size": 3072, "layer_norm_eps": 1e-12,
    "model_type": "vit", "num_attention_heads": 12, "num_channels": 3, "num_hidden_layers": 12,
    "patch_size": 16, "qkv_bias": True, "transformers_version": "4.13.0.dev0",
}  # fmt: skip

CLIP: dict[str, Any] = {
    "architectures": ["CLIPModel"], "initializer_factor": 1.0, "logit_scale_init_value": 2.6592,
    "model_type": "clip", "projection_dim": 512, "torch_dtype": "float32",
    "text_config": {
        "dropout": 0.0, "hidden_size": 512, "intermediate_size": 2048,
        "model_type": "clip_text_model", "num_attention_heads": 8, "num_hidden_layers": 12,
        "vocab_size": 49408,
    },
    "vision_config": {
        "hidden_size": 768, "image_size": 224, "intermediate_size": 3072,
        "model_type": "clip_vision_model", "num_attention_heads": 12, "num_hidden_layers": 12,
        "patch_size": 32,
    },
}  # fmt: skip
"""Both of its parts have their classes' defaults, which some releases leave out of an entry."""

LARGE_CLIP: dict[str, Any] = {
    **CLIP, "projection_dim": 768,
    "text_config": {
        **CLIP["text_config"], "hidden_size": 640, "intermediate_size": 2560,
        "num_attention_heads": 10,
    },
    "vision_config": {
        **CLIP["vision_config"], "hidden_size": 1024, "intermediate_size": 4096,
        "num_attention_heads": 16, "num_hidden_layers": 24, "patch_size": 14,
    },
}  # fmt: skip

FLAN: dict[str, Any] = {
    "architectures": ["T5ForConditionalGeneration"], "d_ff": 1024, "d_kv": 64, "d_model": 512,
    "decoder_start_token_id": 0, "dropout_rate": 0.1, "eos_token_id": 1,
    "feed_forward_proj": "gated-gelu", "initializer_factor": 1.0, "is_encoder_decoder": True,
    "layer_norm_epsilon": 1e-06, "model_type": "t5", "n_positions": 512, "num_heads": 6,
    "num_layers": 8, "pad_token_id": 0, "relative_attention_num_buckets": 32,
    "tie_word_embeddings": False, "transformers_version": "4.23.1", "use_cache": True,
    "vocab_size": 32128,
}  # fmt: skip

MODERN_FLAN: dict[str, Any] = {
    **FLAN, "num_decoder_layers": 8, "scale_decoder_outputs": False, "tie_word_embeddings": True,
    "transformers_version": "5.0.0",
}  # fmt: skip
"""The same as transformers 5 saves it, which ties every T5."""

MODERN_PHI3: dict[str, Any] = {
    **{n: v for n, v in PHI3.items() if n not in ("rope_scaling", "rope_theta", "torch_dtype")},
    "dtype": "bfloat16", "partial_rotary_factor": 1.0, "transformers_version": "5.0.0",
    "rope_parameters": {
        **PHI3["rope_scaling"], "type": "longrope", "rope_type": "longrope",
        "original_max_position_embeddings": 4096, "partial_rotary_factor": 1.0,
        "rope_theta": 10000.0,
    },
}  # fmt: skip

SINGLE: dict[str, dict[str, Any]] = {
    "llama": LLAMA, "tuned": TUNED, "small": SMALL, "mixtral": MIXTRAL, "qwen2": QWEN2,
    "qwen3": QWEN3, "phi3": PHI3, "gemma3_text": GEMMA3["text_config"], "bert": BERT,
    "classifier": CLASSIFIER, "clip_text": CLIP_TEXT, "bloom": BLOOM, "vit": VIT, "clip": CLIP,
    "large_clip": LARGE_CLIP, "flan": FLAN,
}  # fmt: skip
PIPELINE: dict[str, Any] = {"text_encoder": CLIP_TEXT, "unet": UNET, "vae": VAE}

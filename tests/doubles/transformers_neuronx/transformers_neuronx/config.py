"""Follows transformers-neuronx, src/transformers_neuronx/config.py: QuantizationConfig (29),
ContinuousBatchingConfig (74), GenerationConfig (107), NeuronConfig (161)."""

from __future__ import annotations


class QuantizationConfig:
    def __init__(self, quant_dtype="s8", dequant_dtype="f16", quantize_method="vector_dynamic",
                 quantize_attn=True, no_quantize_list=()):  # fmt: skip
        if quant_dtype not in ("s8", "f8e4m3fn"):
            raise NotImplementedError(f"{quant_dtype} is not implemented.")
        self.quant_dtype, self.dequant_dtype = quant_dtype, dequant_dtype
        self.quantize_method, self.quantize_attn = quantize_method, quantize_attn


class KVCacheQuantizationConfig:
    def __init__(self, quant_dtype="s8", dequant_dtype="bf16", quantize_method="direct_cast"):
        self.quant_dtype, self.dequant_dtype = quant_dtype, dequant_dtype


class SparseAttnConfig:
    def __init__(self, **fields):
        self.__dict__.update(fields)


class ContinuousBatchingConfig:
    def __init__(self, **kwargs):
        name = "max_num_seqs" if "max_num_seqs" in kwargs else "batch_size_for_shared_caches"
        self.batch_size_for_shared_caches = kwargs.pop(name)
        assert len(kwargs) == 0, f"unexpected key word arguments: {kwargs.keys()}"


class GenerationConfig:
    def __init__(self, *, max_length=None, do_sample=False, top_k=50, top_p=1.0,
                 top_p_min_tokens=1, global_top_k=None, eos_token_id=None, temperature=1.0,
                 dynamic=False, deterministic=False, per_batch_line=False):  # fmt: skip
        fields = dict(locals())
        del fields["self"]
        self.__dict__.update(fields)


class NeuronConfig:
    def __init__(self, *, sparse_attn=None, quant=None, kv_cache_quant=None,
                 continuous_batching=None, attention_layout="HSB", collectives_layout="HSB",
                 on_device_embedding=False, on_device_generation=None, fuse_qkv=False,
                 weight_tiling=False, sequence_parallel_norm=False,
                 compilation_worker_count=None, **kwargs):  # fmt: skip
        assert len(kwargs) == 0, f"Unexpected NeuronConfig keyword arguments: {kwargs}"
        fields = dict(locals())
        del fields["self"], fields["kwargs"]
        self.__dict__.update(fields)

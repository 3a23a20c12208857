"""How each generation loads, or compiles (file and line there).

fork, main  upstreaming-to-vllm, ``vllm/model_executor/model_loader/neuronx_distributed.py``:
            NeuronCausalLM.load_weights (2.24:219, main:160), get_neuron_model (2.24:670)
plugin      vllm-neuron 0.2, ``vllm_neuron/worker/neuronx_distributed_model_loader.py``:
            _load_weights_common (140), _get_compiled_model_path (197), get_neuron_model (660)
native      vllm-neuron 0.21, in the double of ``vllm_neuron``
"""

from __future__ import annotations

import logging
import os
import shutil
from hashlib import md5
from pathlib import Path

import neuron_double

from vllm.versions import generation

logger = logging.getLogger("vllm")


def load_model(options):
    """The loaded model, for the options of an LLM."""
    if neuron_double.knob("vllm_crash") is not None:
        raise RuntimeError("Engine core initialization failed. See root cause above.")
    if generation() == "native":
        from vllm_neuron.worker import load

        return load(options)
    return _load_nxdi(options, generation())


def _load_nxdi(options, kind):
    from neuronx_distributed_inference.utils.constants import MODEL_TYPES
    from neuronx_distributed_inference.utils.hf_adapter import load_pretrained_config

    name = options["model"]
    loaded = {}
    holder = type("Holder", (), {"__init__": lambda self: None})()
    load_pretrained_config(name)(holder)
    loaded.update(holder.__dict__)
    cls = MODEL_TYPES[loaded["model_type"]]["causal-lm"]
    override = _override(options, kind)
    if kind != "plugin" and options.get("override_neuron_config") is None:
        override = None
    arguments = {
        "tp_degree": options.get("tensor_parallel_size") or 1,
        "batch_size": options["max_num_seqs"],
        "max_context_length": options["max_model_len"],
        "seq_len": options["max_model_len"],
        "enable_bucketing": True,
        "ctx_batch_size": 1,
        "on_device_sampling_config": {"dynamic": True, "deterministic": False},
        **(override or {}),
    }
    config = cls.get_config_cls()(
        cls.get_neuron_config_cls()(**arguments), load_config=load_pretrained_config(name)
    )
    path = _artifact_path(name, md5(config.to_json_string().encode()).hexdigest(), kind)
    try:
        return _load_compiled(cls, path, override, kind)
    except (FileNotFoundError, ValueError) as error:
        if neuron_double.knob("vllm_quiet") is None:
            logger.warning("Exception: %s", error)
            text = (
                "Unable to find precompiled artifacts from %s. Recompiling..."
                if kind == "plugin"
                else "Failed to load the model from %s. Recompiling..."
            )
            logger.warning(text, path)
    model = cls(name, config)
    model.compile(path)
    model.load(path)
    return model


def _load_compiled(cls, path, override, kind):
    model = cls(path)
    if kind != "plugin":
        for name, value in override.items():  # of None, too, before the fork of SDK 2.24
            setattr(model.config.neuron_config, name, value)
    model.load(path)
    logger.info("Successfully loaded precompiled model artifacts from %s", path)
    return model


def _override(options, kind):
    if kind != "plugin":
        return options.get("override_neuron_config")
    return (options.get("additional_config") or {}).get("override_neuron_config")


def _artifact_path(name, digest, kind):
    told = os.getenv("NEURON_COMPILED_ARTIFACTS")
    if told if kind == "plugin" else told is not None:
        return told
    root = Path(name) if os.path.exists(name) else Path("local-models") / name
    path = root / "neuron-compiled-artifacts" / digest
    shutil.rmtree(path, ignore_errors=True)  # whatever is there
    return str(path)

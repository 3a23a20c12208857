"""Writes neuron_artifacts/neuron_cache/defaults.json from installed transformers releases.

A config.json leaves out what equals its class's default, a registry entry does not; comparing the
two needs the defaults. They are the default arguments of the configuration classes; where two
releases disagree, the value is left out, which means unknown.

    python -m tests.neuron_cache.make_defaults PYTHON…

with one interpreter for each transformers release (no torch is needed).
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

OUTPUT = Path(__file__).parents[2] / "neuron_artifacts" / "neuron_cache" / "defaults.json"

MODEL_TYPES = """
albert beit bert bloom camembert clip clip_text_model clip_vision_model convbert deberta deberta-v2
deit distilbert electra esm flaubert gemma gemma2 gemma3_text gpt2 gpt_neox granite hubert llama
llama4_text mistral mixtral mobilebert modernbert mpnet opt phi phi3 qwen2 qwen2_moe qwen3
qwen3_moe roberta roformer siglip_vision_model smollm3 swin t5 vit wav2vec2 wavlm whisper
xlm xlm-roberta yolos
"""

PROBE = """
import importlib, inspect, json, sys
import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
names = {
    **CONFIG_MAPPING_NAMES, "clip_text_model": "CLIPTextConfig",
    "clip_vision_model": "CLIPVisionConfig",
}
found = {}
for model_type in sys.argv[1].split():
    cls = getattr(transformers, names.get(model_type, "-"), None)
    if cls is not None:
        parameters = inspect.signature(cls.__init__).parameters.values()
        found[model_type] = {
            p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty
        }
base = transformers.PretrainedConfig().to_dict()
found["*"] = {"tie_word_embeddings": base["tie_word_embeddings"]}
print(json.dumps({"version": transformers.__version__, "defaults": found}))
"""


def main(interpreters: list[str]) -> None:
    probes = [_probe(interpreter) for interpreter in interpreters]
    merged: dict[str, dict[str, Any]] = {}
    for model_type in sorted({name for probe in probes for name in probe["defaults"]}):
        tables = [p["defaults"][model_type] for p in probes if model_type in p["defaults"]]
        names = sorted({name for table in tables for name in table})
        values = {name: [table[name] for table in tables if name in table] for name in names}
        merged[model_type] = {n: v[0] for n, v in values.items() if all(x == v[0] for x in v)}
    document = {"transformers": sorted(p["version"] for p in probes), "defaults": merged}
    OUTPUT.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")


def _probe(interpreter: str) -> Any:
    run = [interpreter, "-c", PROBE, MODEL_TYPES]
    return json.loads(subprocess.run(run, check=True, capture_output=True, text=True).stdout)


if __name__ == "__main__":
    main(sys.argv[1:])

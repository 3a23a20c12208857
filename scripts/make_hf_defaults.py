"""Write the tables of transformers' configuration defaults that vLLM's hash depends on.

Run without arguments: it makes one throwaway environment per transformers version, installs
that version from PyPI (no torch is needed), and runs itself there with ``--dump``. The result is
``neuron_artifacts/backends/nxdi/data/hf-config-defaults-<version>.json``.

A table holds what configuration classes fill in: the defaults every class shares, each class's
own parameters with their defaults, and which derivation rules the class applies, found by
probing the class rather than by reading it.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

VERSIONS = ("4.45.2", "4.48.0", "4.51.3", "4.56.2", "4.57.6")
MODEL_TYPES = (
    "llama", "ministral", "mistral", "mixtral", "qwen2", "qwen3", "qwen3_moe", "dbrx",
)  # fmt: skip
DATA = Path(__file__).parent.parent / "neuron_artifacts" / "backends" / "nxdi" / "data"

# Set by rules that need the model's own file: never a plain default.
COMPUTED = ("id2label", "label2id", "model_type", "transformers_version", "_name_or_path")


def make_tables(versions: tuple[str, ...]) -> None:
    """Install each version in an environment of its own and write its table."""
    for version in versions:
        with tempfile.TemporaryDirectory() as folder:
            venv.create(folder, with_pip=True)
            python = str(Path(folder) / "bin" / "python")
            install = ["-m", "pip", "install", "--quiet", f"transformers=={version}"]
            subprocess.run([python, *install], check=True)
            output = subprocess.run(
                [python, __file__, "--dump"], check=True, capture_output=True, text=True,
                env={**os.environ, "PYTHONHASHSEED": "0", "TRANSFORMERS_VERBOSITY": "critical"},
            ).stdout  # fmt: skip
        path = DATA / f"hf-config-defaults-{version}.json"
        path.write_text(output, encoding="utf-8")
        sys.stderr.write(f"{path}\n")


def dump_table() -> dict[str, Any]:
    """The table of the transformers version installed here."""
    import transformers
    from transformers import CONFIG_MAPPING, PretrainedConfig

    base = _plain(PretrainedConfig().to_dict())
    models = {
        model_type: _describe(CONFIG_MAPPING[model_type], base)
        for model_type in MODEL_TYPES
        if model_type in CONFIG_MAPPING
    }
    return {"transformers": transformers.__version__, "base": base, "models": models}


def _plain(attributes: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if name not in COMPUTED}


def _describe(cls: Any, base: dict[str, Any]) -> dict[str, Any]:
    attributes = cls().to_dict()
    signature = inspect.signature(cls.__init__).parameters.values()
    named = [p for p in signature if p.kind is p.POSITIONAL_OR_KEYWORD and p.name != "self"]
    own = {p.name: p.default for p in named if p.name in attributes}
    for name, default in base.items():
        if attributes[name] != default:
            own.setdefault(name, attributes[name])
    subs = {
        name: _describe(sub, base)
        for name, sub in getattr(cls, "sub_configs", {}).items() or _nested(cls())
    }
    for name in subs:
        own.pop(name)
    return {
        "parameters": own,
        "unstored": sorted(p.name for p in named if p.name not in attributes),
        "null_means": {
            name: attributes[name]
            for name, default in own.items()
            if default is None
            and name != "layer_types"
            and isinstance(attributes[name], list | dict)
        },
        "rules": sorted(_probe(cls, attributes, own)),
        "attribute_map": dict(cls.attribute_map),
        "sub_configs": subs,
    }


def _nested(config: Any) -> list[tuple[str, Any]]:
    """Sub-configurations of versions that do not declare them."""
    from transformers import PretrainedConfig

    found = vars(config).items()
    return [(name, type(value)) for name, value in found if isinstance(value, PretrainedConfig)]


def _probe(cls: Any, attributes: dict[str, Any], own: dict[str, Any]) -> set[str]:
    """Which derivation rules the class applies, seen from outside."""
    rules = set()
    if {"hidden_size", "num_attention_heads"} <= set(own):
        probe = cls(hidden_size=66, num_attention_heads=6, num_key_value_heads=None)
        if probe.num_key_value_heads == 6:
            rules.add("key-value-heads-from-heads")
        if "head_dim" in own and getattr(cls(**_SMALL, head_dim=None), "head_dim", None) == 11:
            rules.add("head-dim-from-hidden-size")
    if "use_sliding_window" in own and cls(sliding_window=7).sliding_window is None:
        rules.add("sliding-window-needs-its-switch")
    if attributes.get("layer_types"):
        rules.add("layer-types-from-sliding-window")
    if "rope_scaling" in own:
        probe = cls(rope_scaling={"type": "linear", "factor": 2.0})
        if "rope_type" in probe.rope_scaling:
            rules.add("rope-type-from-type")
    if "kv_n_heads" in str(attributes.get("attn_config")) and "num_key_value_heads" in attributes:
        rules.add("key-value-heads-from-attn-config")
    return rules


_SMALL = {"hidden_size": 66, "num_attention_heads": 6}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dump", action="store_true", help="print the installed version's table")
    parser.add_argument("versions", nargs="*", default=VERSIONS)
    arguments = parser.parse_args()
    if arguments.dump:
        sys.stdout.write(json.dumps(dump_table(), indent=1, sort_keys=True) + "\n")
    else:
        make_tables(tuple(arguments.versions))


if __name__ == "__main__":
    main()

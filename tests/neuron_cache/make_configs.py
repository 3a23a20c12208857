"""Writes data/entry_configs.json: what several transformers releases make of model_configs.py.

A registry entry holds ``to_diff_dict()`` of a configuration object; only transformers itself says
what that is.

    python -m tests.neuron_cache.make_configs PYTHON…

with one interpreter for each transformers release (no torch is needed).
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.neuron_cache.model_configs import SINGLE

OUTPUT = Path(__file__).parent / "data" / "entry_configs.json"

PROBE = """
import json, sys, transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
names = {**CONFIG_MAPPING_NAMES, "clip_text_model": "CLIPTextConfig"}
found = {}
for name, raw in json.load(sys.stdin).items():
    cls = getattr(transformers, names.get(raw["model_type"], "-"), None)
    if cls is None:
        continue
    try:
        found[name] = cls.from_dict(raw).to_diff_dict()
    except ValueError:
        pass  # a release that does not know this kind of rope scaling yet
print(json.dumps({"version": transformers.__version__, "configs": found}))
"""


def main(interpreters: list[str]) -> None:
    probes = [_probe(interpreter) for interpreter in interpreters]
    document = {probe["version"]: probe["configs"] for probe in probes}
    OUTPUT.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")


def _probe(interpreter: str) -> Any:
    done = subprocess.run(
        [interpreter, "-c", PROBE], input=json.dumps(SINGLE), check=True, text=True,
        stdout=subprocess.PIPE,
    )  # fmt: skip
    return json.loads(done.stdout)


if __name__ == "__main__":
    main(sys.argv[1:])

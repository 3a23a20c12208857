"""``modules/lora_serving/config.py:9``: adapters are looked into when it is constructed."""

from __future__ import annotations

import json
import os


class LoraServingConfig:
    def __init__(self, max_loras=1, max_lora_rank=16, target_modules=None, lora_ckpt_paths=None,
                 dynamic_multi_lora=False):  # fmt: skip
        self.max_loras, self.max_lora_rank = max_loras, max_lora_rank
        self.dynamic_multi_lora = dynamic_multi_lora
        self.lora_ckpt_paths = dict(lora_ckpt_paths or {})
        found = set()
        for name, path in self.lora_ckpt_paths.items():
            if not os.path.exists(path):
                raise FileNotFoundError(
                    f"LoRA adapter path {path} for adapter ID {name} is not found."
                )
            with open(os.path.join(path, "adapter_config.json")) as file:
                adapter = json.load(file)
            found.update(adapter["target_modules"])
            self.max_lora_rank = max(self.max_lora_rank, adapter["r"])
        self.target_modules = target_modules
        if target_modules is None or not found <= set(target_modules):
            self.target_modules = list(found)  # its order depends on PYTHONHASHSEED

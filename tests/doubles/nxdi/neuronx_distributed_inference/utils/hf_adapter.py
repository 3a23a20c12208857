"""``utils/hf_adapter.py:36``: load_pretrained_config, without the defaults transformers adds."""

from __future__ import annotations

import json
import os


def load_pretrained_config(model_path_or_name=None):
    def load_config(self):
        with open(os.path.join(model_path_or_name, "config.json")) as file:
            config = json.load(file)
        for name in ("torch_dtype", "dtype"):
            config.pop(name, None)
        self.__dict__.update(config, _name_or_path=model_path_or_name)

    return load_config

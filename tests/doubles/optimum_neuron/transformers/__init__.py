"""A double of transformers as far as optimum-neuron's double and the worker go.

Follows transformers 4.57, ``configuration_utils.py``: ``from_pretrained`` from a folder or the
hub, ``get_text_config``, ``to_diff_dict``, ``save_pretrained``.
"""

from __future__ import annotations

import json
from pathlib import Path


class PretrainedConfig:
    def __init__(self, name, fields):
        self.__dict__.update(fields, _name_or_path=name)

    def get_text_config(self):
        return self

    def to_diff_dict(self):
        return {key: value for key, value in vars(self).items() if key != "_name_or_path"}

    def save_pretrained(self, save_directory):
        with Path(save_directory, "config.json").open("w") as file:
            json.dump(self.to_diff_dict(), file)


class AutoConfig:
    @classmethod
    def from_pretrained(cls, name, revision=None):
        path = Path(name, "config.json")
        if not Path(name).is_dir():
            from huggingface_hub import hf_hub_download

            path = hf_hub_download(name, "config.json", revision=revision)
        with Path(path).open() as file:
            return PretrainedConfig(str(name), json.load(file))

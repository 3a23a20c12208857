"""Follows optimum-neuron v0.4.5, optimum/neuron/cache/entries/single_model.py and, for ``hash``
and ``serialize``, cache_entry.py."""

from __future__ import annotations

import hashlib
import json


class SingleModelCacheEntry:
    def __init__(self, model_id, task, config, neuron_config=None):
        self.model_id, self.task = model_id, task
        ignored = ("_name_or_path", "transformers_version", "torch_dtype")
        self._config = {k: v for k, v in config.to_diff_dict().items() if k not in ignored}
        self._neuron_config = neuron_config.to_dict()

    def serialize(self):
        document = {
            **self._config,
            "neuron": self._neuron_config,
            "_entry_class": type(self).__name__,
            "_model_id": self.model_id,
            "_task": self.task,
        }
        return json.dumps(document, indent=2, sort_keys=True)

    @property
    def hash(self):
        return hashlib.sha512(self.serialize().encode("utf-8")).hexdigest()[:20]

    def arch_digest(self):
        document = {
            "model_type": self._config["model_type"], "task": self.task, "config": self._config,
        }  # fmt: skip
        return hashlib.sha256(json.dumps(document, sort_keys=True).encode("utf-8")).hexdigest()

"""Follows optimum-neuron v0.4.5, optimum/neuron/configuration_utils.py: saving (74), loading
(116), the checks of versions (209-241) and the three keys it adds (289-302)."""

from __future__ import annotations

import json
from pathlib import Path

from optimum.neuron import version


class NeuronConfig:
    def save_pretrained(self, save_directory):
        Path(save_directory).mkdir(parents=True, exist_ok=True)
        with Path(save_directory, "neuron_config.json").open("w") as file:
            file.write(json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n")

    @classmethod
    def from_pretrained(cls, pretrained_model_name, token=None, revision="main"):
        path = Path(pretrained_model_name, "neuron_config.json")
        if not Path(path).is_file():
            raise OSError(f"{pretrained_model_name} does not appear to have a neuron_config.json")
        try:
            with path.open(encoding="utf-8") as file:
                return cls.from_dict(json.load(file))
        except json.JSONDecodeError:
            raise OSError(f"the config file at '{path}' is not a valid JSON file.") from None

    @classmethod
    def from_dict(cls, config_dict):
        for key in ["optimum_neuron_version", "_serialized_key", "neuronxcc_version"]:
            if key not in config_dict:
                raise ValueError(
                    f"Invalid neuron configuration: missing mandatory {key} attribute."
                )
        found = config_dict.pop("optimum_neuron_version")
        if found != version.__version__:
            raise ValueError(
                f"generated with optimum-neuron version {found}, but this is {version.__version__}."
            )
        compiler = config_dict.pop("neuronxcc_version")
        if compiler != version.COMPILER:
            raise RuntimeError(
                f"exported using version {compiler} but {version.COMPILER} is installed."
            )
        from optimum.neuron.models.inference.backend.config import NxDNeuronConfig

        assert config_dict.pop("_serialized_key") == "NxDNeuronConfig"
        return NxDNeuronConfig(**config_dict)

    def to_dict(self):
        fields = {
            key: str(value).split(".")[1] if key == "torch_dtype" else value
            for key, value in vars(self).items()
        }
        return {
            **fields,
            "_serialized_key": type(self).__name__,
            "optimum_neuron_version": version.__version__,
            "neuronxcc_version": version.COMPILER,
        }

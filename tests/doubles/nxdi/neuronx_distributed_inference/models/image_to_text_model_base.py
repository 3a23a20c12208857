"""``models/image_to_text_model_base.py``: ImageToTextInferenceConfig (30), compile (291),
shard_text_weights (247), load (361); the graphs are those of ``models/llama4``."""

from __future__ import annotations

import copy
import json
import os

import neuron_double

from .application_base import MODEL_FILE, normalize_path, shard
from .config import InferenceConfig
from .model_base import NeuronBaseForCausalLM
from .model_wrapper import VISION, ModelWrapper


class ImageToTextInferenceConfig(InferenceConfig):
    def __init__(self, text_neuron_config, vision_neuron_config, fused_spec_config=None,
                 load_config=None, metadata=None, **kwargs):  # fmt: skip
        super().__init__(
            copy.deepcopy(text_neuron_config), fused_spec_config, load_config, metadata, **kwargs
        )
        self.text_config = InferenceConfig(text_neuron_config, **self.text_config)
        self.text_config._name_or_path = self._name_or_path
        self.vision_config = VisionConfig(vision_neuron_config, **self.vision_config)

    def get_required_attributes(self):
        return ["text_config", "vision_config"]

    @classmethod
    def from_json_string(cls, text):
        content = json.loads(text)
        del content["neuron_config"]
        parts = [
            cls.get_neuron_config_cls()(**content[name].pop("neuron_config"))
            for name in ("text_config", "vision_config")
        ]
        return cls(*parts, **content)


class VisionConfig(InferenceConfig):
    def get_required_attributes(self):
        return []


class NeuronBaseForImageToText(NeuronBaseForCausalLM):
    config_cls = ImageToTextInferenceConfig

    def __init__(self, *args):
        super().__init__(*args)
        self.text_models = self.models = self.make_models(self.config.text_config)
        self.vision_models = [ModelWrapper(VISION, self.config.vision_config, [88], 1)]
        self._builders = {
            "text_model": self.make_builder(self.config.text_config, self.models, "text_model"),
            "vision_model": self.make_builder(
                self.config.vision_config, self.vision_models, "vision_model"
            ),
        }

    def compile(self, compiled_model_path):
        self.config.save(compiled_model_path)
        path = normalize_path(compiled_model_path)
        for part, builder in self._builders.items():
            os.makedirs(path + part, exist_ok=True)
            neuron_double.save_torchscript(os.path.join(path, part, MODEL_FILE), builder.trace())
        self.shard_text_weights(path + "text_model/")
        self.shard_vision_weights(path + "vision_model/")

    def shard_text_weights(self, path):
        shard(self._builders["text_model"], self.config.text_config.neuron_config, path)

    def shard_vision_weights(self, path):
        shard(self._builders["vision_model"], self.config.vision_config.neuron_config, path)

    def load(self, compiled_model_path):
        path = normalize_path(compiled_model_path)
        for part, builder in self._builders.items():
            neuron_double.load_torchscript(os.path.join(path, part, MODEL_FILE))
            self.load_weights(os.path.join(path, part), self.neuron_config, builder)


class NeuronLlama4ForCausalLM(NeuronBaseForImageToText):
    pass

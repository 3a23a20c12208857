"""``models/application_base.py`` (line numbers there): constructing (59), compile (292),
shard_weights (240), load (318), load_weights (380), checkpoint_loader_fn (630),
save_quantized_state_dict (746); of ``models/model_base.py`` forward (3314); of
``models/model_wrapper.py`` padding (574); of ``modules/autobucketing.py`` the buckets.
"""

from __future__ import annotations

import copy
import math
import os
import shutil
import zipfile

import neuron_double
import torch

from .config import InferenceConfig

MODEL_FILE = "model.pt"
CONTEXT, DECODING = "context_encoding_model", "token_generation_model"
_CHECKPOINTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")


def generate_buckets(low, high):
    if low >= high:
        return [high]
    return [2**i for i in range(int(math.log2(low)), round(math.log2(high)))] + [high]


class ModelWrapper:
    def __init__(self, tag, config, buckets):
        self.tag, self.config = tag, copy.deepcopy(config)
        self.config.neuron_config.buckets = buckets


class Output:
    def __init__(self, value, on_device):
        self.hidden_states = value if on_device else None
        self.logits = None if on_device else value


class NeuronApplicationBase:
    _model_cls = None

    def __init__(self, model_path, config=None):
        path = os.path.join(os.path.normpath(model_path), "")
        self.config = config or self.get_config_cls().load(path)
        self.model_path = path
        fields = self.neuron_config = self.config.neuron_config
        self.vocab_size = self.config.vocab_size  # models/model_base.py
        context, decoding = [fields.max_context_length], [fields.max_length]
        if fields.enable_bucketing:
            context = fields.context_encoding_buckets or generate_buckets(128, context[0])
            decoding = fields.token_generation_buckets or generate_buckets(128, decoding[0])
        second = "fused_speculation_model" if fields.enable_fused_speculation else DECODING
        self.models = [
            ModelWrapper(CONTEXT, self.config, context),
            ModelWrapper(second, self.config, decoding),
        ]
        self._device = None

    @classmethod
    def get_config_cls(cls):
        return InferenceConfig

    @classmethod
    def get_neuron_config_cls(cls):
        return cls.get_config_cls().get_neuron_config_cls()

    @classmethod
    def save_quantized_state_dict(cls, model_path, config):
        target = config.neuron_config.quantized_checkpoints_path
        name = "model.safetensors"
        if os.path.isdir(target):
            target = os.path.join(target, name)
        shutil.copyfile(os.path.join(model_path, name), target)

    def compile(self, compiled_model_path):
        path = os.path.join(os.path.normpath(compiled_model_path), "")
        self.config.save(path)  # before anything is compiled
        work = os.environ.get("BASE_COMPILE_WORK_DIR", "/tmp/nxd_model/")
        shutil.rmtree(work, ignore_errors=True)  # at the beginning of tracing
        neffs = []
        for model in self.models:
            for index, bucket in enumerate(model.config.neuron_config.buckets):
                folder = os.path.join(work, model.tag, f"_tp0_bk{index}")
                os.makedirs(folder, exist_ok=True)
                with open(f"{model.tag}_{index}.hlo", "w") as hlo:  # in the working directory
                    hlo.write("HloModule")
                neffs.append(
                    neuron_double.make_neff(neuron_double.compile_graph(f"{model.tag} {bucket}"))
                )
                with open(os.path.join(folder, "graph.neff"), "wb") as file:
                    file.write(neffs[-1])
        neuron_double.save_torchscript(path + MODEL_FILE, neffs)
        self.shard_weights(path)

    def shard_weights(self, compiled_model_path):
        fields = self.neuron_config
        if fields.skip_sharding or not fields.save_sharded_checkpoint:
            return
        folder = os.path.join(compiled_model_path, "weights")
        self._shard(folder)

    def _shard(self, folder=None):
        source = self._checkpoint()
        fields = self.neuron_config
        for rank in range(fields.start_rank_id, fields.start_rank_id + fields.local_ranks_size):
            if folder and neuron_double.knob("lost_shard") != str(rank):
                os.makedirs(folder, exist_ok=True)
                target = os.path.join(folder, f"tp{rank}_sharded_checkpoint.safetensors")
                shutil.copyfile(source, target)

    def _checkpoint(self):
        path = getattr(self.config, "_name_or_path", None)
        if path is None or not os.path.exists(path):
            path = self.model_path
        if self.neuron_config.quantized:
            path = self.neuron_config.quantized_checkpoints_path
            if not os.path.exists(path):
                raise FileNotFoundError(f"Quantized checkpoint file not found: {path}")
        for name in _CHECKPOINTS:
            found = os.path.join(path, name)
            if os.path.isfile(found):
                return found
        raise FileNotFoundError(f"Can not find model.safetensors or pytorch_model.bin in {path}")

    def load(self, compiled_model_path, *_):
        path = os.path.join(os.path.normpath(compiled_model_path), "")
        if not os.path.isfile(path + MODEL_FILE):
            raise ValueError(f"The provided filename {path}{MODEL_FILE} does not exist")
        if not zipfile.is_zipfile(path + MODEL_FILE):
            raise RuntimeError("PytorchStreamReader failed reading zip archive")
        fields = self.neuron_config
        if fields.save_sharded_checkpoint:
            for rank in range(fields.start_rank_id, fields.start_rank_id + fields.local_ranks_size):
                name = f"weights/tp{rank}_sharded_checkpoint.safetensors"
                with open(os.path.join(path, name), "rb"):
                    pass
        else:
            self._shard()
        if neuron_double.available_cores() < fields.local_ranks_size:
            raise RuntimeError("Unknown type name '__torch__.torch.classes.neuron.SPMDModel'")
        self._device = neuron_double.Device(
            fields.batch_size, fields.seq_len, self.config.vocab_size
        )

    def __call__(self, input_ids, attention_mask=None, position_ids=None, seq_ids=None,
                 sampling_params=None):  # fmt: skip
        tokens, positions, slots = (x.tolist() for x in (input_ids, position_ids, seq_ids))
        fields = self.neuron_config
        if min(min(row) for row in positions) == 0:  # a prompt (_is_prefill)
            if len(slots) != fields.ctx_batch_size:
                raise RuntimeError("a prompt runs with the context encoding batch size")
        elif len(tokens[0]) != 1:
            raise RuntimeError("token generation takes one token a row")
        else:
            for slot in range(fields.batch_size):  # missing rows repeat the first one
                if slot not in slots:
                    self._device.step(slot, tokens[0], positions[0])
        on_device = fields.on_device_sampling_config is not None
        rows = [
            self._device.step(*row)
            for row in zip(slots, tokens, positions)  # noqa: B905
        ]
        value = self._device.answer(rows, on_device)
        if not on_device:
            value = torch.Tensor(value.numpy()[:, None, :], torch.float32)
        return Output(value, on_device)


class NeuronLlamaModel:
    pass


class NeuronLlamaForCausalLM(NeuronApplicationBase):
    _model_cls = NeuronLlamaModel

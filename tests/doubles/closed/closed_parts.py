"""The closed parts of the Neuron SDK, as far as importing the open ones takes.

For running NxD Inference's own sources without a device (``tests/upstream``). Names come from the
imports of neuronx-distributed-inference and neuronx-distributed; what is closed can be imported,
called and decorated with, and does nothing. Two places do what they would do up to the compiler:
``trace/model_builder.py:523`` of neuronx-distributed (``ModelBuilder.trace``) writes the folders
and files of every bucket, and torch's classes of the runtime exist by name.
"""

from __future__ import annotations

import enum
import importlib.abc
import importlib.machinery
import os
import pathlib
import shutil
import sys
import types

import recording

CLOSED = {
    "torch_neuronx", "torch_xla", "libneuronxla", "neuronxcc", "nki", "nkilib",
    # Open, and of no use here: other people's packages that these sources import at the top.
    "accelerate", "blobfile", "boto3", "botocore", "cv2", "diffusers", "lm_eval", "matplotlib",
    "neuronx_distributed_training", "pandas", "psutil", "scipy", "tenacity", "tiktoken",
    "torchvision",
}  # fmt: skip


class Anything(type):
    """A class of which every attribute is another one, and which decorates by doing nothing."""

    def __getattr__(cls, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return stand_in(f"{cls.__name__}.{name}")

    def __call__(cls, *args, **kwargs):
        if len(args) == 1 and isinstance(args[0], types.FunctionType):
            return args[0]
        return super().__call__(*args, **kwargs)

    def __getitem__(cls, _item):
        return cls

    def __or__(cls, _other):
        return cls

    __ror__ = __or__

    def __iter__(cls):
        return iter(())


def stand_in(name):
    def ignore(self, *args, **kwargs):
        pass

    def call(self, *args, **kwargs):
        return args[0] if len(args) == 1 and callable(args[0]) and not kwargs else self

    def attribute(self, inner):
        if inner.startswith("__"):
            raise AttributeError(inner)
        return stand_in(f"{name}.{inner}")

    body = {"__init__": ignore, "__call__": call, "__getattr__": attribute, "__module__": "closed"}
    return Anything(name, (), body)


class Module(types.ModuleType):
    __path__ = []  # noqa: RUF012

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        setattr(self, name, stand_in(f"{self.__name__}.{name}"))
        return getattr(self, name)


class BucketModelConfig:
    """torch_neuronx: what ``trace`` of neuronx-distributed up to SDK 2.23 asks of it."""

    def __init__(self, *args, func_kwargs=None, **kwargs):
        self.func_kwargs = func_kwargs

    def store_example_inputs(self, inputs):
        pass

    def get_func_kwargs_for_bucket_rank(self, rank):
        given = self.func_kwargs
        return given[rank] if isinstance(given, (list, tuple)) else dict(given or {})


def fill_in(module):
    name = module.__name__
    for attribute, value in recording.FILLINGS.get(name, {}).items():
        setattr(module, attribute, value)
    if name == "torch_neuronx":
        import torch

        module.__version__, module.BucketModelConfig = "2.9.0", BucketModelConfig
        for kind in ("SPMDModel", "LayoutTransformation", "Model"):
            setattr(torch.classes.neuron, kind, type(kind, (), {}))
    elif name in ("torch_neuronx.utils", "torch_neuronx.utils.utils"):
        module.get_platform_target = lambda *_: os.environ["NEURON_PLATFORM_TARGET_OVERRIDE"]
        module.SUPPORTED_TYPES = ["inf2", "trn1", "trn1n", "trn2", "trn3"]
    elif name == "neuronxcc":  # optimum/neuron/utils/version_utils.py:55 writes it down
        module.__version__ = "2.21.33363.0+82129205"
    elif name == "torch_xla":
        module.__version__ = "2.9.0"
    elif name == "torch_xla.core.xla_model":
        module.is_xla_tensor = lambda _tensor: False
    elif name == "torch_xla.utils.utils":
        module.getenv_as = lambda key, kind, default=None: (
            kind(os.environ[key]) if key in os.environ else default
        )
    elif name.endswith(("blockwise_mm", "moe_cte_utils")):
        strategy = enum.Enum("BlockShardStrategy", ["HI_LO", "PING_PONG"], module=name, start=0)
        module.BlockShardStrategy = strategy


def trace(self, initialize_model_weights=True, dry_run=False, **_):
    """Every bucket's folder and files, and a model that can be saved; nothing is compiled."""
    import torch

    shutil.rmtree(self.compiler_workdir, ignore_errors=True)
    for key, container in self.model_collection.items():
        for index, inputs in enumerate(container.example_inputs):
            folder = os.path.join(self.compiler_workdir, key, f"_tp0_bk{index}")
            os.makedirs(os.path.join(folder, "model"))
            with open(os.path.join(folder, "model/graph.hlo"), "w") as hlo:
                hlo.write(str([list(tensor.shape) for tensor in inputs]))
            with open(os.path.join(folder, "graph.neff"), "w") as neff:
                neff.write("no NEFF")
    if type(container.model_instance).__module__.startswith("optimum."):
        from remembering import remember

        return remember(container)
    return torch.jit.script(torch.nn.Identity())


def patch_builder(module):
    module.ModelBuilder.trace = trace


def patch_serialization(module):
    module.FILE_LIKE = getattr(module, "FILE_LIKE", object)  # gone from newer torch


def patch_system(module):
    """One device, of the instance type that is named: what /proc, /sys and /dev would tell."""
    instance = os.environ.get("NEURON_DOUBLE_INSTANCE")
    if instance:
        module.get_neuron_major = lambda: 0
        module.get_instance_name = lambda: instance
        module.get_available_cores = lambda: 2


def patch_memory(module):
    module.SYSFS_NEURON_BASE = pathlib.Path(__file__).parent  # a folder without devices' files


AFTER_IMPORT = {
    "neuronx_distributed.trace.model_builder": patch_builder,
    "optimum.neuron.models.inference.backend.neuron_device_memory": patch_memory,
    "optimum.neuron.utils.neuron_device_memory": patch_memory,
    "optimum.neuron.utils.system": patch_system,
    "torch.serialization": patch_serialization,
}


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in CLOSED:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        if name not in AFTER_IMPORT:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        run = spec.loader.exec_module

        def exec_module(module):
            run(module)
            AFTER_IMPORT[name](module)

        spec.loader.exec_module = exec_module
        return spec

    def create_module(self, spec):
        return Module(spec.name)

    def exec_module(self, module):
        fill_in(module)


sys.meta_path.insert(0, Finder())

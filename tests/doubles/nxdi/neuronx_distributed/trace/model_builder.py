"""``trace/model_builder.py``: trace (523), shard_checkpoint (814), and
``transform_weight_layout_with_overriden_option`` (1333)."""

from __future__ import annotations

import json
import os
import shutil
import struct

import neuron_double


class ModelBuilder:
    def __init__(self, tp_degree, world_size, start_rank_id, local_ranks_size, checkpoint_loader,
                 compiler_workdir):  # fmt: skip
        self.tp_degree, self.world_size = tp_degree, world_size
        self.ranks = range(start_rank_id, start_rank_id + local_ranks_size)
        self.checkpoint_loader, self.compiler_workdir = checkpoint_loader, compiler_workdir
        self.models = {}

    def add(self, key, buckets, priority_model_idx=None):
        self.models[key] = buckets, priority_model_idx

    def trace(self):
        """NEFFs of all graphs, the priority model's first; what lay in the folder is gone."""
        if os.path.exists(self.compiler_workdir):
            shutil.rmtree(self.compiler_workdir)
        graphs = [
            (index != priority, key, index, bucket)
            for key, (buckets, priority) in self.models.items()
            for index, bucket in enumerate(buckets)
        ]
        neffs = []
        for _, key, index, bucket in sorted(graphs, key=lambda graph: graph[0]):
            folder = os.path.join(self.compiler_workdir, key, f"_tp0_bk{index}")
            os.makedirs(os.path.join(folder, "model"))
            with open(f"{key}_{index}.hlo", "w") as hlo:  # in the working directory
                hlo.write("HloModule")
            neff = neuron_double.make_neff(neuron_double.compile_graph(f"{key} {bucket}"))
            os.remove(f"{key}_{index}.hlo")
            with open(os.path.join(folder, "graph.neff"), "wb") as file:
                file.write(neff)
            neffs.append(neff)
        if os.environ.get("NXD_LAYOUT_TRANSFORMATION_OPTIONS"):
            self.args_for_cpu_transformation = (self.compiler_workdir,)
        return neffs

    def shard_checkpoint(self, serialize_path=None):
        _check_groups(self.tp_degree)
        files = self.checkpoint_loader()
        for rank in self.ranks:
            if serialize_path and neuron_double.knob("lost_shard") != str(rank):
                os.makedirs(serialize_path, exist_ok=True)
                name = f"tp{rank}_sharded_checkpoint.safetensors"
                write_shard(files, rank, os.path.join(serialize_path, name))

    def transform_weight_layout_with_overriden_option(self):
        assert self.args_for_cpu_transformation


def write_shard(files, rank, target):
    """The first file's tensors, whole; what else it is of stands in its header."""
    with open(files[0], "rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        header, data = json.loads(file.read(size)), file.read()
    header["__metadata__"] = {"rank": str(rank), "files": str(len(files))}
    text = json.dumps(header).encode()
    with open(target, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + data)


def _check_groups(tp_degree):
    """parallel_layers/parallel_state.py:608 up to SDK 2.27, for the groups of 4 on trn1."""
    target = os.environ.get("NEURON_PLATFORM_TARGET_OVERRIDE", "trn1")
    if neuron_double.knob("old") is not None and tp_degree == 4 and target == "trn1":
        int(os.environ["LOCAL_WORLD_SIZE"])

"""The transformers-neuronx worker, driven in a real process against the library's double."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import neuron_artifacts.backends.transformers_neuronx
from neuron_artifacts.errors import CompileError, CompileInterruptedError, EngineError, ServeError
from neuron_artifacts.worker import WorkerEvent, open_worker, run_worker
from tests.backends.checkpoints import VOCAB, chosen, next_token, write_checkpoint
from tests.doubles.environments import make_neuron_environment
from tests.worker.workers import processes, wait_until

WORKER = Path(neuron_artifacts.backends.transformers_neuronx.__file__).with_name("worker.py")


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_neuron_environment(tmp_path_factory.mktemp("tnx"), "transformers_neuronx")


class Site:
    """One interpreter, one checkpoint, one output."""

    def __init__(self, python: Path, folder: Path) -> None:
        self.python, self.folder = python, folder
        self.output = folder / "output"
        self.model = write_checkpoint(folder / "model")
        self.log = folder / "compiles"
        self.events: list[WorkerEvent] = []

    def request(self, action: str, **fields: Any) -> dict[str, Any]:
        return {
            "action": action, "model": str(self.model), "output": str(self.output),
            "tp_degree": 2, "dtype": "bfloat16", "batch_size": 3, "max_model_len": 32,
            "device": False, **fields,
        }  # fmt: skip

    def environ(self, knobs: str = "", **environ: str) -> dict[str, str]:
        double = {"NEURON_DOUBLE": knobs, "NEURON_DOUBLE_LOG": str(self.log)}
        return {**os.environ, **double, **environ}

    def run(self, action: str, knobs: str = "", **fields: Any) -> Mapping[str, Any]:
        environ = self.environ(knobs, **fields.pop("environ", {}))
        return run_worker(
            self.python, WORKER, self.request(action, **fields),
            directory=self.folder / "job", environ=environ, observe=self.events.append,
        )  # fmt: skip

    def compiles(self) -> list[str]:
        return self.log.read_text().split() if self.log.exists() else []


@pytest.fixture
def site(python: Path, tmp_path: Path) -> Site:
    return Site(python, tmp_path)


@pytest.mark.parametrize(("device", "knobs"), [(False, ""), (True, "cores=2")])
def test_compile_saves_one_neff_a_graph(site: Site, device: bool, knobs: str) -> None:
    result = site.run("compile", knobs, device=device, environ={
        "NEURON_CONTEXT_LENGTH_BUCKETS": " 16, ,8 ", "NEURON_TOKEN_GEN_BUCKETS": "32",
    })  # fmt: skip
    assert result["graphs"] == [
        {"phase": "context_encoding", "bucket": 8},
        {"phase": "context_encoding", "bucket": 16},
        {"phase": "token_generation", "bucket": 32},
    ]
    assert sorted(result["neffs"]) == sorted(site.compiles())
    assert len(result["neffs"]) == 3
    assert set(result["files"]) == {*result["neffs"], "neuron_config.json"}
    settings = result["neuron_config"]
    assert settings["context_length_estimate"] == [16, 8]
    assert settings["amp"] == "bf16"
    assert settings["neuron_config"]["continuous_batching"] == {"batch_size_for_shared_caches": 3}
    assert settings["neuron_config"]["on_device_generation"]["top_k"] == [256, 256, 256]


BUCKETS: list[tuple[dict[str, str], dict[str, Any], list[int], list[int]]] = [
    ({}, {}, [32], [32]),
    ({"NEURON_CONTEXT_LENGTH_BUCKETS": "8,16"}, {}, [8, 16], [32]),
    ({"NEURON_TOKEN_GEN_BUCKETS": ",,32,,64 ,"}, {}, [32], [32, 64]),
    (
        {"NEURON_CONTEXT_LENGTH_BUCKETS": "8", "NEURON_TOKEN_GEN_BUCKETS": "64"},
        {"context_encoding_buckets": [4], "token_generation_buckets": [16]},
        [4],
        [16],
    ),
]


@pytest.mark.parametrize(("environ", "fields", "contexts", "tokens"), BUCKETS)
def test_buckets_are_read_as_vllm_reads_them(
    site: Site, environ: dict[str, str], fields: dict[str, Any], contexts: list[int],
    tokens: list[int],
) -> None:  # fmt: skip
    settings = site.run("compile", environ=environ, **fields)["neuron_config"]
    assert settings["context_length_estimate"] == contexts
    assert settings["n_positions"] == tokens


@pytest.mark.parametrize(
    ("environ", "fields", "told"),
    [
        ({"NEURON_CONTEXT_LENGTH_BUCKETS": "8;16"}, {}, "8;16"),
        ({"NEURON_CONTEXT_LENGTH_BUCKETS": "64"}, {}, "cannot be more than max"),
        ({"NEURON_QUANT_DTYPE": "int8"}, {"quantization": "neuron_quant"}, "none of s8, f8e4m3fn"),
        ({}, {"quantization": "awq"}, "not neuron_quant"),
        ({}, {"dtype": "float64"}, "float64"),
        ({}, {"neuron_config": {"fuse_kvq": True}}, "fuse_kvq"),
        ({}, {"architecture": "BloomForCausalLM"}, "BloomForCausalLM"),
        ({"NEURON_ON_DEVICE_SAMPLING_DISABLED": "yes"}, {}, "yes"),
    ],
)
def test_what_is_refused(
    site: Site, environ: dict[str, str], fields: dict[str, Any], told: str
) -> None:
    with pytest.raises(CompileError, match=told):
        site.run("compile", environ=environ, **fields)
    assert not site.compiles()


@pytest.mark.parametrize(
    ("environ", "dtype"), [({}, "s8"), ({"NEURON_QUANT_DTYPE": "f8e4m3fn"}, "f8e4m3fn")]
)
def test_quantisation(site: Site, environ: dict[str, str], dtype: str) -> None:
    result = site.run("compile", environ=environ, quantization="neuron_quant")
    neuron_config = result["neuron_config"]["neuron_config"]
    assert neuron_config["quant"] == {
        "quant_dtype": dtype, "dequant_dtype": "bf16", "quantize_method": "vector_dynamic",
    }  # fmt: skip
    assert neuron_config["weight_tiling"] is True


@pytest.mark.parametrize(
    ("name", "layout"), [("LlamaForCausalLM", "BSH"), ("MixtralForCausalLM", "HSB")]
)
def test_each_architecture_has_a_layout_that_it_takes(site: Site, name: str, layout: str) -> None:
    write_checkpoint(site.model, architectures=[name])
    settings = site.run("compile")["neuron_config"]
    assert settings["architecture"] == name
    assert settings["neuron_config"]["attention_layout"] == layout


def test_sampling_on_the_device_is_on_unless_refused(site: Site) -> None:
    def generation(**fields: Any) -> Any:
        settings = site.run("compile", **fields)["neuron_config"]
        return settings["neuron_config"]["on_device_generation"]

    off = {"NEURON_ON_DEVICE_SAMPLING_DISABLED": "1"}
    assert generation(environ={"NEURON_ON_DEVICE_SAMPLING_DISABLED": "0"})["dynamic"] is True
    assert generation(environ=off) is None
    assert generation(environ=off, on_device_sampling=True)["per_batch_line"] is True
    assert generation(on_device_sampling=False) is None


@pytest.mark.parametrize(
    ("knobs", "cause", "attempts"),
    [
        ("hbm", "device_memory", 1),
        ("instructions", "too_many_instructions", 1),
        ("operator", "unsupported_operator", 1),
        ("oom", "host_memory", 2),
        ("kill", "host_memory", 2),
    ],
)
def test_each_failure_is_an_error_and_no_artifact(
    site: Site, knobs: str, cause: str, attempts: int
) -> None:
    with pytest.raises(CompileError) as caught:
        site.run("compile", knobs)
    assert caught.value.cause == cause
    assert len(site.compiles()) == attempts
    with pytest.raises(CompileError, match="compile was not finished"):
        site.run("validate")


def test_a_retry_after_memory_ran_out_compiles_one_graph_at_a_time(site: Site) -> None:
    with pytest.raises(CompileError):
        site.run("compile", "oom")
    first, second = (site.folder / "job" / name for name in ("worker.log", "worker-retry.log"))
    assert "compiling with None workers" in first.read_text()
    assert "compiling with 1 workers" in second.read_text()


def test_a_host_without_a_device_says_so(site: Site) -> None:
    with pytest.raises(CompileError) as caught:
        site.run("compile", device=True)
    assert caught.value.cause == "device_unavailable"


def test_an_interrupted_compile_leaves_no_compiler(site: Site) -> None:
    mark = f"mark-{secrets.token_hex(8)}"
    terminated: list[int] = []

    def terminate(event: WorkerEvent) -> None:
        """Somebody ends the worker itself once its compiler runs."""
        if event.name == "graph" and not terminated and event.fields["bucket"] == 32:
            assert wait_until(lambda: bool(processes(mark)))
            terminated.extend(p for p in processes(str(WORKER)) if b"bootstrap" in arguments(p))
            for pid in terminated[-1:]:
                os.kill(pid, signal.SIGTERM)

    def arguments(pid: int) -> bytes:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[1]

    with pytest.raises(CompileInterruptedError):
        run_worker(
            site.python, WORKER, site.request("compile"), directory=site.folder / "job",
            environ=site.environ(f"slow={mark}"), observe=terminate,
        )  # fmt: skip
    assert not processes(mark)


def serve(site: Site, knobs: str = "cores=2", **fields: Any) -> Any:
    request = site.request("serve", **fields)
    return closing(
        open_worker(
            site.python, WORKER, request, directory=site.folder / "s", environ=site.environ(knobs)
        )
    )


@pytest.mark.parametrize("on_device", [True, False])
def test_slots_do_not_disturb_each_other_and_nothing_compiles(site: Site, on_device: bool) -> None:
    site.run("compile", on_device_sampling=on_device, context_encoding_buckets=[4, 16])
    before = site.compiles()
    with serve(site) as worker:
        assert worker.facts == {
            "batch_size": 3, "seq_len": 32, "max_context_length": 16, "vocab_size": VOCAB,
            "context_encoding_buckets": [4, 16], "token_generation_buckets": [32],
            "on_device_sampling": on_device,
        }  # fmt: skip
        worker.call("warm_up", {})
        told: dict[int, list[int]] = {0: [5, 6, 7], 2: [9], 1: [1, 2]}
        for slot, tokens in told.items():
            worker.call("sampling", {"slot": slot, "temperature": 1.0, "top_k": 1, "top_p": 1.0})
            payload, data = worker.call("prefill", {"slot": slot, "tokens": tokens, "start": 0})
            tokens.append(*chosen(payload, data, 1))
            assert tokens[-1] == next_token(tokens[:-1])
        for slots in ([2, 0], [1], [0], [0, 1, 2], [2], [1, 2]):
            payload, data = worker.call(
                "decode",
                {
                    "slots": slots,
                    "tokens": [told[slot][-1] for slot in slots],
                    "positions": [len(told[slot]) - 1 for slot in slots],
                },
            )
            for slot, token in zip(slots, chosen(payload, data, len(slots)), strict=True):
                assert token == next_token(told[slot])
                told[slot].append(token)
        with pytest.raises(EngineError, match="1 to 16 tokens"):
            worker.call("prefill", {"slot": 0, "tokens": [1] * 17, "start": 0})
    assert site.compiles() == before


def test_a_missing_graph_is_not_compiled_while_serving(site: Site) -> None:
    result = site.run("compile")
    before = site.compiles()
    (site.output / result["neffs"][0]).unlink()
    with pytest.raises(ServeError, match="Could not find a matching NEFF"), serve(site):
        pass
    with pytest.raises(CompileError, match="Could not find a matching NEFF"):
        site.run("validate", "cores=2", load=True)
    assert site.compiles() == before


def test_other_settings_do_not_find_the_graphs(site: Site) -> None:
    site.run("compile")
    path = site.output / "neuron_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "tp_degree": 4}))
    with pytest.raises(ServeError, match="Could not find a matching NEFF"), serve(site):
        pass


def test_a_directory_with_its_checkpoint_stands_alone(site: Site) -> None:
    site.run("compile")
    for name in ("config.json", "model.safetensors"):
        shutil.copy(site.model / name, site.output / name)
    shutil.rmtree(site.model)
    with serve(site, model=None) as worker:
        assert worker.facts["batch_size"] == 3


def test_weights_of_its_own_where_the_library_can_write_them(site: Site) -> None:
    result = site.run("compile", neuron_config={"on_device_embedding": True})
    assert {"DecoderLMHead.safetensors", "config.json"} <= set(result["files"])
    shutil.rmtree(site.model)
    assert site.run("validate", "cores=2", load=True, model=None)["loaded"] is True

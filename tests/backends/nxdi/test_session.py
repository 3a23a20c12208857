"""Serving with the nxdi worker: a real process, slots of the double's device, damaged artifacts."""

from __future__ import annotations

import json
import shutil
from contextlib import closing
from typing import Any

import pytest

from neuron_artifacts.errors import CompileError, EngineError, ServeError
from neuron_artifacts.worker import WorkerEvent, WorkerProcess, open_worker
from tests.backends.checkpoints import VOCAB, chosen, next_token
from tests.backends.nxdi.sites import WORKER, Site, write_model

DYNAMIC: dict[str, Any] = {"on_device_sampling_config": {"dynamic": True}}
SAMPLING = [
    pytest.param({}, id="logits"),
    pytest.param(DYNAMIC, id="on-device"),
]


def prefill(worker: WorkerProcess, slot: int, tokens: list[int]) -> int:
    payload, data = worker.call("prefill", {"slot": slot, "tokens": tokens, "start": 0})
    (token,) = chosen(payload, data, 1)
    return token


def decode(worker: WorkerProcess, told: dict[int, list[int]], slots: list[int]) -> list[int]:
    payload, data = worker.call(
        "decode",
        {
            "slots": slots,
            "tokens": [told[slot][-1] for slot in slots],
            "positions": [len(told[slot]) - 1 for slot in slots],
        },
    )
    return chosen(payload, data, len(slots))


def greedy(worker: WorkerProcess, slot: int) -> None:
    worker.call("sampling", {"slot": slot, "temperature": 1.0, "top_k": 1, "top_p": 1.0})


@pytest.mark.parametrize("fields", SAMPLING)
def test_slots_do_not_disturb_each_other(site: Site, fields: dict[str, Any]) -> None:
    site.run("compile", **fields)
    before = site.compiles()
    with closing(site.serve()) as worker:
        assert worker.facts == {
            "batch_size": 3, "seq_len": 32, "max_context_length": 16, "vocab_size": VOCAB,
            "context_encoding_buckets": [8, 16], "token_generation_buckets": [16, 32],
            "on_device_sampling": bool(fields),
        }  # fmt: skip
        worker.call("warm_up", {})
        told: dict[int, list[int]] = {0: [5, 6, 7], 2: [9], 1: list(range(1, 15))}
        for slot, tokens in told.items():
            greedy(worker, slot)
            tokens.append(prefill(worker, slot, tokens))
            assert tokens[-1] == next_token(tokens[:-1])
        for slots in ([2, 0], [1], [0], [0, 1, 2], [2], [1, 2], [2, 1, 0], [1, 0]):
            for slot, token in zip(slots, decode(worker, told, slots), strict=True):
                assert token == next_token(told[slot])
                told[slot].append(token)
        told[1] = [3, 2]  # a slot used again, while the others go on
        told[1].append(prefill(worker, 1, told[1]))
        for slots in ([0], [1, 2], [1]):
            for slot, token in zip(slots, decode(worker, told, slots), strict=True):
                assert token == next_token(told[slot])
                told[slot].append(token)
    assert site.compiles() == before


@pytest.mark.parametrize("length", [1, 2, 7, 8, 9, 16])
def test_a_prompt_of_any_length_gives_its_own_last_logits(site: Site, length: int) -> None:
    """NxD pads positions with 1: of a single token it would give the padding's logits."""
    site.run("compile")
    tokens = list(range(11, 11 + length))
    with closing(site.serve()) as worker:
        assert prefill(worker, 1, tokens) == next_token(tokens)
        told = {1: [*tokens, 4]}
        assert decode(worker, told, [1]) == [next_token(told[1])]


def test_a_prompt_must_fit(site: Site) -> None:
    site.run("compile")
    with closing(site.serve()) as worker:
        for tokens in ([], [1] * 17):
            with pytest.raises(EngineError, match="1 to 16 tokens"):
                prefill(worker, 0, tokens)
        with pytest.raises(EngineError, match="unknown method 'embed'"):
            worker.call("embed", {})
        assert prefill(worker, 0, [1, 2]) == next_token([1, 2]), "and it goes on"


def test_each_slot_has_its_own_sampling(site: Site) -> None:
    """The double draws the token after the likeliest where it may choose."""
    site.run("compile", **DYNAMIC)
    with closing(site.serve()) as worker:
        told: dict[int, list[int]] = {0: [5, 6], 1: [7], 2: [8, 9, 10]}
        for slot, top_k in enumerate((1, 5000, 0)):  # 0 is no limit, and not any token
            payload = {"slot": slot, "temperature": 0.7, "top_k": top_k, "top_p": 0.9}
            worker.call("sampling", payload)
        for slot, tokens in told.items():
            token = prefill(worker, slot, tokens)
            assert token == (next_token(tokens) + (slot != 0)) % VOCAB
            tokens.append(token)
        for slots in ([1], [2, 0], [0, 1, 2]):
            for slot, token in zip(slots, decode(worker, told, slots), strict=True):
                assert token == (next_token(told[slot]) + (slot != 0)) % VOCAB
                told[slot].append(token)


def test_a_slot_that_sits_out_neither_suffers_nor_chooses_the_bucket(site: Site) -> None:
    site.run("compile")
    long = list(range(1, 17))
    with closing(site.serve()) as worker:
        prefill(worker, 0, long)
        prefill(worker, 2, [9])
        prefill(worker, 1, [3, 4])
        assert decode(worker, {0: [*long, 7]}, [0]) == [next_token([*long, 7])]
        assert decode(worker, {1: [3, 4, 5]}, [1]) == [next_token([3, 4, 5])]
        assert decode(worker, {2: [9, 8]}, [2]) == [next_token([9, 8])]
    log = (site.folder / "serve/worker.log").read_text()
    runs = [line for line in log.splitlines() if line.startswith("running token")]
    assert [line.split()[-1] for line in runs] == ["32", "16", "16"]


def test_sampling_that_was_compiled_in_is_told_of(site: Site) -> None:
    site.run("compile", on_device_sampling_config={"dynamic": False})
    events: list[WorkerEvent] = []
    worker = open_worker(
        site.python, WORKER, {"action": "serve", "output": str(site.output)},
        directory=site.folder / "serve", environ=site.environ("cores=2"), observe=events.append,
    )  # fmt: skip
    with closing(worker):
        assert prefill(worker, 0, [4, 5]) == next_token([4, 5])
    (warning,) = [event for event in events if event.name == "warning"]
    assert "fixed when the graphs were compiled" in warning.fields["text"]


UNSERVABLE: list[tuple[dict[str, Any], str]] = [
    ({"enable_fused_speculation": True, **DYNAMIC}, "enable_fused_speculation"),
    ({"speculation_length": 4}, "speculation_length"),
    ({"is_block_kv_layout": True}, "is_block_kv_layout"),
    ({"async_mode": True}, "async_mode"),
    ({"lora_config": {"max_loras": 1}}, "lora_config"),
    ({"padding_side": "left"}, "pad on the left"),
    ({"is_continuous_batching": False}, "is_continuous_batching and ctx_batch_size 1 only"),
    ({"ctx_batch_size": 3}, "is_continuous_batching and ctx_batch_size 1 only"),
]


@pytest.mark.parametrize(("fields", "told"), UNSERVABLE)
def test_graphs_whose_rows_are_no_slots_are_left_to_vllm(
    site: Site, fields: dict[str, Any], told: str
) -> None:
    draft = {"model": str(site.model)} if "enable_fused_speculation" in fields else None
    site.run("compile", **fields, more={"draft": draft})
    with pytest.raises(ServeError, match=told):
        site.serve()


def test_one_slot_needs_no_continuous_batching(site: Site) -> None:
    site.run("compile", batch_size=1, is_continuous_batching=False)
    with closing(site.serve()) as worker:
        tokens = [4, 5, 6]
        tokens.append(prefill(worker, 0, tokens))
        assert decode(worker, {0: tokens}, [0]) == [next_token(tokens)]


DAMAGE = [
    ("neuron_config.json", None, "FileNotFoundError"),
    ("neuron_config.json", b"{", "JSONDecodeError"),
    ("neuron_config.json", b"{}", "names no architectures"),
    ("model.pt", None, "does not exist"),
    ("model.pt", b"", "failed reading zip archive"),
    ("model.pt", b"half", "failed reading zip archive"),
    ("weights/tp1_sharded_checkpoint.safetensors", None, "FileNotFoundError"),
    ("weights/tp1_sharded_checkpoint.safetensors", b"half", "SafetensorError"),
]


@pytest.mark.parametrize(("name", "content", "told"), DAMAGE)
def test_a_damaged_artifact_is_not_compiled_again(
    site: Site, name: str, content: bytes | None, told: str
) -> None:
    """Where vLLM would recompile over it."""
    site.run("compile")
    before, path = site.compiles(), site.output / name
    if content == b"half":
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2])
    elif content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    with pytest.raises(ServeError, match=told):
        site.serve()
    with pytest.raises(CompileError, match=told):
        site.run("validate", "cores=2", more={"load": True})
    assert site.compiles() == before


def test_a_folder_is_no_model(site: Site) -> None:
    site.run("compile")
    (site.output / "model.pt").unlink()
    (site.output / "model.pt").mkdir()
    with pytest.raises(ServeError, match="does not exist"):
        site.serve()


def test_without_a_device_only_the_configuration_is_read(site: Site) -> None:
    compiled = site.run("compile")
    told = site.run("validate")
    assert told["loaded"] is False
    fields = json.loads(told["document"])["neuron_config"]
    assert fields == json.loads(compiled["document"])["neuron_config"]
    assert site.run("validate", "cores=2", more={"load": True})["loaded"] is True
    with pytest.raises(ServeError, match="SPMDModel"):
        site.serve("")


@pytest.mark.parametrize("knobs", ["", "old,"])
def test_weights_that_are_not_sharded_come_from_the_artifact(site: Site, knobs: str) -> None:
    """Not from where they were: other weights may lie there now, or none."""
    site.run("compile", save_sharded_checkpoint=False)
    with pytest.raises(ServeError, match="Can not find model"):
        site.serve(f"{knobs}cores=2")
    for name in ("config.json", "model.safetensors"):
        shutil.copy(site.model / name, site.output / name)
    write_model(site.model)
    (site.model / "model.safetensors").write_bytes(b"others, by now")
    with closing(site.serve(f"{knobs}cores=2")) as worker:
        assert prefill(worker, 0, [1, 2]) == next_token([1, 2])


def test_what_vllm_built_is_served_too(site: Site) -> None:
    """It has no config.json: the architecture stands in the library's own file."""
    site.run("compile")
    assert not (site.output / "config.json").exists()
    with closing(site.serve()) as worker:
        assert worker.facts["batch_size"] == 3

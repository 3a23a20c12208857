"""``key --vllm`` as a user runs it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from neuron_artifacts.cli import vllm_key
from neuron_artifacts.cli.vllm_key import VllmOptions
from neuron_artifacts.toolchain import Toolchain
from tests.backends.nxdi.vectors import each, read
from tests.cli.run import Result, run

CASES = [
    vector
    for vector in each("vectors")
    if vector[0] in (
        "raw-default-tiny-llama-2.21", "raw-bucketing-2.25", "raw-lnc-env-2.24",
        "raw-trn2-2.29", "raw-default-tiny-mixtral-2.28", "aws-fork-2.22-eagle-2.22",
        "aws-fork-2.24-prefix-2.24", "vllm-main-spec-2.23", "vllm-neuron-0.2-override-2.27",
        "realworld-tinyllama-2.24",
    )
]  # fmt: skip
LOADER = ("--vllm-loader", "vllm-neuron-0.2", "--max-num-seqs", "4", "--max-model-len", "512")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders with nothing but a config.json, called what the vectors call them."""
    base = tmp_path_factory.mktemp("models")
    for name, config in read("vectors")["models"].items():
        (base / name).mkdir(parents=True)
        (base / name / "config.json").write_text(json.dumps(config))
    return base


def key(place: Path, *flags: object, model: str = "tiny-llama", **environ: str) -> Result:
    return run("key", model, "--backend", "nxdi", *flags, cwd=place, **environ)


def flags_of(case: Mapping[str, Any]) -> list[str]:
    flags = ["--target", case["target"]] if "target" in case else []
    if "loader" not in case:
        return [*flags, "--override-neuron-config", json.dumps(case["neuron_config"])]
    options = case["vllm"]
    flags += ["--vllm-loader", case["loader"], "--tensor-parallel-size", str(options["tp"])]
    flags += ["--max-num-seqs", str(options["max_num_seqs"])]
    flags += ["--max-model-len", str(options["max_model_len"])]
    flags += ["--block-size", str(options["block_size"])]
    flags += ["--enable-prefix-caching"] if options.get("enable_prefix_caching") else []
    if spec := options.get("spec"):
        flags += ["--speculative-model", spec["draft"], "--num-speculative-tokens", str(spec["k"])]
        flags += ["--speculative-method", spec["method"]] if "method" in spec else []
    override = case.get("override")
    return [*flags, "--override-neuron-config", json.dumps(override)] if override else flags


@pytest.mark.parametrize(("name", "case", "sdk", "md5"), CASES, ids=[case[0] for case in CASES])
def test_vectors(place: Path, name: str, case: Mapping[str, Any], sdk: str, md5: str) -> None:
    result = key(
        place, "--vllm", "--sdk", sdk, *flags_of(case), model=case["model"], **case.get("env", {})
    )
    assert (result.code, result.out) == (0, f"{md5}\n"), result.err


def test_all_of_the_chosen_vectors_exist() -> None:
    assert len(CASES) == 10


def test_json_and_explain(place: Path) -> None:
    result = key(place, "--vllm", "--sdk", "2.29", "--json", "--explain")
    body = result.data
    assert hashlib.md5(body["document"].encode()).hexdigest() == body["md5"]
    assert (body["sdk"], body["loader"], body["target"]) == ("2.29", None, "trn1")
    assert body["notes"] == ["no target given: computed for trn1"]
    assert "document" not in key(place, "--vllm", "--sdk", "2.29", "--json").data
    text = key(place, "--vllm", "--sdk", "2.29", "--explain")
    assert text.out == f"{body['md5']}\n{body['document']}\n"
    assert "trn1" in text.err


def test_both_spellings_of_overrides(place: Path) -> None:
    override = {"fused_qkv": True}
    one = key(place, "--vllm", "--sdk", "2.29", *LOADER, "--override-neuron-config",
              json.dumps(override))  # fmt: skip
    two = key(place, "--vllm", "--sdk", "2.29", *LOADER, "--additional-config",
              json.dumps({"override_neuron_config": override}))  # fmt: skip
    assert one.out == two.out != ""


def test_speculation_in_both_spellings(place: Path) -> None:
    draft = {"model": "tiny-llama-draft", "num_speculative_tokens": 3, "method": "eagle"}
    old = ("--speculative-model", draft["model"], "--num-speculative-tokens", 3,
           "--speculative-method", "eagle")  # fmt: skip
    one = key(place, "--vllm", "--sdk", "2.29", *LOADER, *old)
    two = key(place, "--vllm", "--sdk", "2.29", *LOADER, "--speculative-config", json.dumps(draft))
    assert one.out == two.out != key(place, "--vllm", "--sdk", "2.29", *LOADER).out


def test_lora_and_chunks_as_vllm_is_given_them(place: Path) -> None:
    fork = ("--vllm", "--sdk", "2.24", *LOADER, "--vllm-loader", "aws-fork-2.24")
    adapter = place / "adapter"
    adapter.mkdir(exist_ok=True)
    (adapter / "adapter_config.json").write_text('{"r": 8, "target_modules": ["q_proj"]}')
    modules = json.dumps({"lora_modules": [{"name": "a", "path": str(adapter)}]})
    plain = key(place, *fork, "--override-neuron-config", modules)
    assert "--enable-lora" in plain.err
    with_lora = key(place, *fork, "--override-neuron-config", modules, "--enable-lora")
    chunks = key(place, *fork, "--enable-chunked-prefill", "--block-size", "32")
    fewer = key(place, *fork, "--enable-chunked-prefill", "--block-size", "32",
                "--max-num-batched-tokens", "512")  # fmt: skip
    found = [plain, with_lora, chunks, fewer]
    assert [result.code for result in found] == [0, 0, 0, 0]
    assert len({result.out for result in found}) == 4


def test_transformers_of_the_host(place: Path) -> None:
    pinned = key(place, "--vllm", "--sdk", "2.22")
    other = key(place, "--vllm", "--sdk", "2.22", "--host-transformers", "4.48.3")
    assert pinned.out != other.out != ""
    assert "4.48.0" in pinned.err
    assert "4.48.3" in other.err


@pytest.mark.parametrize(
    ("asked", "there", "expected"),
    [
        ((None, None), None, ("3.11", None)),
        (("3.10", "4.48.3"), None, ("3.10", "4.48.3")),
        ((None, None), ("3.10", "4.57.1"), ("3.10", "4.57.1")),
        (("3.12", "4.57.2"), ("3.10", "4.57.1"), ("3.12", "4.57.2")),
        ((None, None), ("3.9", "5.0.0"), ("3.11", None)),  # of which nothing is known
    ],
)
def test_the_host_is_as_beside_the_real_code(
    asked: tuple[str | None, str | None],
    there: tuple[str, str] | None,
    expected: tuple[str, str | None],
) -> None:
    values: dict[str, Any] = dict.fromkeys(field.name for field in fields(VllmOptions))
    options = VllmOptions(**{**values, "host_python": asked[0], "host_transformers": asked[1]})
    toolchain = there and Toolchain(
        python=Path("/venv/bin/python"), python_version=there[0],
        packages={"transformers": there[1]}, placeholders={}, devices=(), platform=None,
        generations=("nxdi",),
    )  # fmt: skip
    found = vllm_key._host(options, toolchain)
    assert (found["python"], found["transformers"]) == expected


def test_prompt_length_in_both_spellings(place: Path) -> None:
    loader = ("--vllm", "--sdk", "2.29", *LOADER, "--vllm-loader", "vllm-neuron-0.5")
    one = key(place, *loader, "--max-prompt-length", "128")
    two = key(place, *loader, "--additional-config", '{"max_prompt_length": 128}')
    assert one.out == two.out != key(place, *loader).out


def test_flags_are_arguments_where_there_is_no_loader(place: Path) -> None:
    flags = key(place, "--vllm", "--sdk", "2.24", "--tp-degree", "2", "--seq-len", "256")
    override = '{"tp_degree": 2, "seq_len": 256}'
    assert (
        flags.out == key(place, "--vllm", "--sdk", "2.24", "--override-neuron-config", override).out
    )


def test_the_path_is_hashed_as_it_is_typed(place: Path) -> None:
    one, two = (
        key(place, "--vllm", "--sdk", "2.24", model=m) for m in ("tiny-llama", "./tiny-llama")
    )
    assert one.code == two.code == 0
    assert one.out != two.out


def test_environment_beats_the_target(place: Path) -> None:
    forced = key(place, "--vllm", "--sdk", "2.24", "--target", "trn1",
                 NEURON_PLATFORM_TARGET_OVERRIDE="trn2")  # fmt: skip
    assert forced.out == key(place, "--vllm", "--sdk", "2.24", "--target", "trn2").out
    assert "NEURON_PLATFORM_TARGET_OVERRIDE" in forced.err


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (["--vllm"], 2, ["--sdk", "2.21", "2.29"]),
        (["--vllm", "--sdk", "2.20"], 2, ["2.20", "2.21"]),
        (["--vllm", "--sdk", "2.26.1"], 2, ["write 2.26"]),
        (["--sdk", "2.24"], 2, ["--sdk", "--vllm"]),
        (["--enable-prefix-caching"], 2, ["--vllm"]),
        (["--vllm", "--sdk", "2.24", "--vllm-loader", "vllm-9"], 2, ["--max-num-seqs"]),
        (["--vllm", "--sdk", "2.24", *LOADER, "--vllm-loader", "vllm-9"], 2, ["vllm-main"]),
        (["--vllm", "--sdk", "2.24", "--block-size", "32"], 2, ["--vllm-loader"]),
        (["--vllm", "--sdk", "2.24", "--speculative-model", "x"], 2, ["--num-speculative"]),
        (["--vllm", "--sdk", "2.24", *LOADER, "--num-speculative-tokens", "3"], 2,
         ["--speculative-model"]),
        (["--vllm", "--sdk", "2.24", *LOADER, "--max-context-length", "64"], 2, ["override"]),
        (["--vllm", "--sdk", "2.24", "--target", "gpu"], 2, ["trn1"]),
        (["--vllm", "--sdk", "2.24", "--override-neuron-config", "{"], 2, ["JSON", "quote"]),
        (["--vllm", "--sdk", "2.24", "--override-neuron-config", '{"quantized": true}'], 2,
         ["quantized_checkpoints_path"]),
        (["--vllm", "--sdk", "2.24", "--additional-config", '{"x": 1}'], 2, ["'x'"]),
        (["--vllm", "--sdk", "2.29", *LOADER, "--additional-config",
          '{"max_prompt_length": "64"}'], 2, ["max_prompt_length"]),
        (["--vllm", "--sdk", "2.29", *LOADER, "--max-prompt-length", "32", "--additional-config",
          '{"max_prompt_length": 64}'], 2, ["64", "32"]),
        (["--vllm", "--sdk", "2.29", *LOADER, "--speculative-config", '{"tokens": 3}'], 2,
         ["'tokens'"]),
        (["--vllm", "--sdk", "2.29", *LOADER, "--speculative-config",
          '{"num_speculative_tokens": "3"}'], 2, ["num_speculative_tokens"]),
        (["--vllm", "--sdk", "2.29", *LOADER, "--enable-lora"], 2, ["LoRA"]),
        (["--vllm", "--sdk", "2.24", "--enable-lora"], 2, ["--vllm-loader"]),
        (["--vllm", "--sdk", "2.24", "--host-transformers", "5.0.0"], 2, ["4.51"]),
        (["--vllm", "--sdk", "2.24", "--host-python", "2.7"], 2, ["3.11"]),
    ],
)  # fmt: skip
def test_wrong_usage(place: Path, flags: list[str], code: int, words: list[str]) -> None:
    result = key(place, *flags)
    assert (result.code, result.out) == (code, "")
    for word in words:
        assert word in result.err


def test_other_errors_end_as_elsewhere(place: Path, tmp_path: Path) -> None:
    unknown = key(place, "--vllm", "--sdk", "2.24", model="tiny-qwen3")
    assert unknown.code == 7
    assert "SDK 2.25" in unknown.err
    (tmp_path / "empty").mkdir()
    assert key(tmp_path, "--vllm", "--sdk", "2.24", model="empty").code == 1
    (tmp_path / "empty" / "config.json").write_text("[")
    assert key(tmp_path, "--vllm", "--sdk", "2.24", model="empty").code == 1
    assert (
        run("key", "tiny-llama", "--vllm", "--sdk", "2.24", "--backend", "cpu", cwd=place).code == 2
    )

"""``generate``, the Python API, and vLLM's offline example with its import line changed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import neuron_artifacts
from neuron_artifacts import LLM, SamplingParams
from neuron_artifacts.errors import SpecError
from tests.cli.run import run
from tests.models import ADDER


def test_generate_one_and_many(adder: Path, tmp_path: Path) -> None:
    assert run("generate", "--artifacts", adder, "--prompt", "2+3=").out == "5\n"
    chat = run("generate", "--artifacts", adder, "--chat", "-p", "What is 20 + 30?")
    assert chat.out == "50\n"
    many = run("generate", "--artifacts", adder, "--prompts", "-", "--json", stdin="1+1=\n10+10=\n")
    assert [row["text"] for row in many.data] == ["2", "20"]
    (tmp_path / "prompts.txt").write_text("5+5=\n6+6=\n")
    lines = run("generate", "--artifacts", adder, "--prompts", tmp_path / "prompts.txt").out
    assert lines == "5+5=\t10\n6+6=\t12\n"


def test_prompts_end_with_their_line(adder: Path, tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("5+5=\u2028\r\n6+6=")
    rows = run("generate", "--artifacts", adder, "--prompts", file, "--json").data
    assert [row["prompt"] for row in rows] == ["5+5=\u2028", "6+6="]


def test_prompts_that_are_no_text(adder: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "neuron_artifacts", "generate", "--artifacts", str(adder)]
    file = tmp_path / "prompts.txt"
    file.write_bytes(b"\xff\xfe\n")
    for arguments, said in (
        (["--prompts", "-"], b"standard input is not UTF-8 text"),
        (["--prompts", str(file)], b"prompts.txt is not UTF-8 text"),
        (["-p", b"\xff"], b"--prompt is not UTF-8 text"),
    ):
        done = subprocess.run(
            [*command, *arguments], input=b"\xff\xfe\n", capture_output=True, check=False
        )
        assert done.returncode == 2
        assert said in done.stderr


def test_generate_finds_the_directory_in_the_environment(adder: Path) -> None:
    result = run("generate", "--prompt", "2+3=", NEURON_COMPILED_ARTIFACTS=str(adder))
    assert result.out == "5\n"


def test_python_api(adder: Path) -> None:
    params = SamplingParams(temperature=0.0, max_tokens=8)
    with neuron_artifacts.load(adder) as llm:
        outputs = llm.generate(["100+200=", "1+2="], params)
        assert [output.outputs[0].text for output in outputs] == ["300", "3"]
        assert [output.prompt for output in outputs] == ["100+200=", "1+2="]
        assert len(outputs[0].outputs[0].token_ids) == 4
        again = SamplingParams(temperature=0.8, top_p=0.95, max_tokens=5, ignore_eos=True, seed=3)
        first, second = llm.generate(["1+1=", "1+1="], again)
        assert first.outputs[0].token_ids == second.outputs[0].token_ids
        assert len(first.outputs[0].token_ids) == 5


def test_the_package_shows_its_names() -> None:
    assert set(neuron_artifacts.__all__) <= set(dir(neuron_artifacts))


def test_a_file_may_name_the_model(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(f"model: {ADDER}\nseq_len: 128\nstore: {tmp_path}\n")
    outcome = neuron_artifacts.compile(config_file=file)
    assert outcome.manifest.neuron_config["seq_len"] == 128


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (None, {}, "no model given"),
        (5, {}, "model must be text"),
        (ADDER, {"batchsize": 4}, "unknown option 'batchsize'$"),
    ],
)
def test_wrong_calls_of_compile(model: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        neuron_artifacts.compile(model, **options)


def test_vllms_offline_example_with_its_import_line_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    prompts = ["123+456=", "9+9=", "500+500="]
    sampling_params = SamplingParams(top_k=1)
    llm = LLM(
        model=str(ADDER),
        max_num_seqs=2,
        max_model_len=128,
        override_neuron_config={"enable_bucketing": False},
        device="neuron",
        tensor_parallel_size=1,
    )
    outputs = llm.generate(prompts, sampling_params)
    for output in outputs:
        prompt = output.prompt
        generated_text = output.outputs[0].text
        print(f"Prompt: {prompt!r}, Generated text: {generated_text!r}")
    llm.close()
    assert capsys.readouterr().out.splitlines() == [
        "Prompt: '123+456=', Generated text: '579'",
        "Prompt: '9+9=', Generated text: '18'",
        "Prompt: '500+500=', Generated text: '1000'",
    ]
    assert len(list((tmp_path / "neuron-compiled-artifacts").glob("[0-9a-f]*"))) == 1

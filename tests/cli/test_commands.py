"""Every command on good input: data on standard output, talk on standard error, exit codes."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

import neuron_artifacts
from neuron_artifacts import __version__
from neuron_artifacts.artifact import verify_artifact
from tests.cli.run import run
from tests.models import SMALL, change_weights, copy_model

FLAGS = [text for name, value in SMALL.items() for text in (f"--{name.replace('_', '-')}", value)]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("cli")
    copy_model(base / "model")
    assert run("compile", "model", *FLAGS, cwd=base).code == 0
    return base


@pytest.fixture
def place(built: Path, tmp_path: Path) -> Path:
    shutil.copytree(built, tmp_path / "p")
    return tmp_path / "p"


def artifact_in(place: Path) -> Path:
    root = place / "neuron-compiled-artifacts"
    (path,) = [p for p in root.iterdir() if not p.name.startswith(".")]
    return path


def test_version_and_help() -> None:
    assert run("--version").out == f"neuron-artifacts {__version__}\n"
    overview = run("--help")
    assert overview.code == 0
    for command in ("compile", "cache-lookup", "key", "diff", "validate", "inspect", "list",
                    "doctor", "serve", "generate"):  # fmt: skip
        assert command in overview.out
        assert "--json" in run(command, "--help").out


def test_no_command_is_usage() -> None:
    assert run().code == 2


def test_unknown_option_is_usage() -> None:
    assert run("compile", "x", "--no-such").code == 2


def test_compile_prints_all_one_needs(tmp_path: Path) -> None:
    copy_model(tmp_path / "model")
    result = run("compile", "model", *FLAGS, cwd=tmp_path)
    assert result.code == 0
    lines = dict(line.split(maxsplit=1) for line in result.out.splitlines())
    path = tmp_path / lines["path"]
    assert path.name == lines["key"]
    assert verify_artifact(path, "full").status == "ok"
    assert lines["verdict"].startswith("miss")
    assert lines["compiled"] == "3 of 3 graphs"
    assert lines["serve"] == f"neuron-artifacts serve --artifacts {lines['path']}"
    assert "context_encoding 32: compiled" in result.err
    assert "\x1b" not in result.out + result.err


def test_compile_json_is_data_alone(place: Path) -> None:
    result = run("compile", "model", *FLAGS, "--json", cwd=place)
    assert result.data["verdict"] == "hit"
    assert result.data["compiled"] == 0
    assert Path(result.data["path"]) == artifact_in(place)
    assert {"resolve", "look up"} == set(result.data["seconds"])


def test_key_is_the_name_of_the_directory(place: Path) -> None:
    assert run("key", "model", *FLAGS, cwd=place).out.strip() == artifact_in(place).name
    explained = run("key", "model", *FLAGS, "--explain", "--json", cwd=place).data
    assert explained["document"]["graphs"]["neuron_config"]["seq_len"] == 64
    text = run("key", "model", *FLAGS, "--explain", cwd=place).out
    assert json.loads(text.partition("\n")[2]) == explained["document"]


def test_lookup_hits_and_changes_nothing(place: Path) -> None:
    before = sorted(place.rglob("*"))
    result = run("cache-lookup", "model", *FLAGS, "--json", cwd=place)
    assert (result.code, result.data["verdict"]) == (0, "hit")
    assert sorted(place.rglob("*")) == before


@pytest.mark.parametrize(
    ("change", "flags", "verdict", "compiled"),
    [
        ("weights", [], "relink", 0),
        (None, ["--token-generation-buckets", "32,64"], "partial", 1),
        (None, ["--torch-dtype", "float32"], "miss", 3),
    ],
)
def test_lookup_explains_a_miss(
    place: Path, change: str | None, flags: list[str], verdict: str, compiled: int
) -> None:
    if change:
        change_weights(place / "model")
    result = run("cache-lookup", "model", *FLAGS, *flags, "--json", cwd=place)
    assert (result.code, result.data["verdict"]) == (3, verdict)
    actions = [graph["action"] for graph in result.data["graphs"]]
    assert actions.count("compile") == compiled
    assert result.data["nearest"]["key"] == artifact_in(place).name
    fields = {row["field"] for row in result.data["nearest"]["differences"]}
    expected = {
        "relink": "weights.files.model.safetensors.sha256",
        "partial": "graphs.neuron_config.token_generation_buckets",
        "miss": "graphs.neuron_config.torch_dtype",
    }[verdict]
    assert expected in fields
    text = run("cache-lookup", "model", *FLAGS, *flags, cwd=place).out
    assert expected in text


def test_lookup_of_a_damaged_artifact_says_so(place: Path) -> None:
    (artifact_in(place) / "config.json").unlink()
    result = run("cache-lookup", "model", *FLAGS, "--json", cwd=place)
    assert result.code == 3
    assert result.data["broken"][0]["status"] == "incomplete"


def test_dry_run_does_nothing(tmp_path: Path) -> None:
    copy_model(tmp_path / "model")
    result = run("compile", "model", *FLAGS, "--dry-run", "--json", cwd=tmp_path)
    assert (result.code, result.data["verdict"]) == (0, "miss")
    assert not (tmp_path / "neuron-compiled-artifacts").exists()


def test_show_config_names_each_origin(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("model: m\nbatch_size: 2\n")
    result = run(
        "compile", "--config", "c.yaml", "--max-model-len", "64", "--show-config", "--json",
        cwd=tmp_path, NEURON_ARTIFACTS_TARGET="aarch64",
    )  # fmt: skip
    assert result.data["batch_size"] == {"value": 2, "origin": "file c.yaml"}
    assert result.data["seq_len"] == {"value": 64, "origin": "flag"}
    assert result.data["target"]["origin"] == "environment NEURON_ARTIFACTS_TARGET"
    assert result.data["tp_degree"]["origin"] == "default"


def test_validate_inspect_list(place: Path) -> None:
    path = artifact_in(place)
    assert run("validate", path).out.startswith(f"{path}: ok (quick)")
    assert run("validate", path, "--full", "--json").data["status"] == "ok"
    inspected = run("inspect", path, "--json").data
    assert inspected["key"] == path.name
    assert len(inspected["graphs"]) == 3
    assert path.name in run("inspect", path).out
    listed = run("list", "--json", cwd=place).data
    assert [(row["key"], row["status"]) for row in listed["artifacts"]] == [(path.name, "ok")]
    assert path.name[:16] in run("list", cwd=place).out


@pytest.mark.parametrize(
    ("spoil", "status", "code"),
    [
        (lambda p: (p / "graphs/context_encoding-32.so").unlink(), "incomplete", 5),
        (lambda p: (p / "artifact.json").unlink(), "incomplete", 5),
        (lambda p: shutil.rmtree(p), "missing", 3),
    ],
)
def test_validate_exits_with_the_verdict(
    place: Path, spoil: object, status: str, code: int
) -> None:
    path = artifact_in(place)
    spoil(path)  # type: ignore[operator]
    result = run("validate", path, "--json")
    assert (result.code, result.data["status"], result.data["exit_code"]) == (code, status, code)


def test_diff_says_field_by_field_what_it_costs(place: Path) -> None:
    first = artifact_in(place)
    run("compile", "model", *FLAGS, "--batch-size", "2", cwd=place)
    second = next(p for p in first.parent.iterdir() if p != first and not p.name.startswith("."))
    result = run("diff", first, second, "--json", cwd=place).data
    assert (result["same"], result["cost"]) == (False, "recompile")
    row = next(r for r in result["differences"] if r["field"] == "graphs.neuron_config.batch_size")
    assert (row["left"], row["right"]) == (1, 2)
    by_key = run("diff", first.name[:12], second.name, "--json", cwd=place).data
    assert by_key == result
    elsewhere = {"NEURON_ARTIFACTS_STORE": str(place)}
    assert run("diff", first.name[:12], second.name, "--json", **elsewhere).data == result
    assert "must be compiled" in run("diff", first, second).out
    assert run("diff", first, first, "--json").data["cost"] == "nothing"


def test_diff_of_two_yaml_files(place: Path) -> None:
    base = "".join(f"{name}: {value}\n" for name, value in SMALL.items()).replace(
        '"32,64"', "[32, 64]"
    )
    (place / "a.yaml").write_text(f"model: model\n{base}")
    (place / "b.yaml").write_text(f"model: model\n{base}store: elsewhere\n")
    result = run("diff", "a.yaml", "b.yaml", "--json", cwd=place).data
    assert result["same"] is True
    assert [(r["field"], r["cost"]) for r in result["differences"]] == [("store", "nothing")]


def test_doctor_reports(tmp_path: Path) -> None:
    result = run("doctor", "--json", cwd=tmp_path, NEURON_CC_FLAGS="-O1", HF_TOKEN="hf_secret",
                 NEURON_ARTIFACTS_SEQLEN="4")  # fmt: skip
    assert result.code == 0
    topics = {finding["topic"] for finding in result.data["findings"]}
    assert {"compiler", "target", "store", "memory", "hub", "variable"} <= topics
    texts = "\n".join(finding["text"] for finding in result.data["findings"])
    assert "NEURON_CC_FLAGS: ignored" in texts
    assert "NEURON_ARTIFACTS_SEQLEN: unknown" in texts
    assert "hf_secret" not in result.out


def test_doctor_knows_every_variable_that_is_read(tmp_path: Path) -> None:
    package = Path(neuron_artifacts.__file__).parent
    texts = [file.read_text() for file in package.rglob("*.py")]
    read = {name for text in texts for name in re.findall(r"NEURON_ARTIFACTS_[A-Z_]+[A-Z]", text)}
    assert {"NEURON_ARTIFACTS_POLICY", "NEURON_ARTIFACTS_STORE"} <= read
    result = run("doctor", "--json", cwd=tmp_path, **dict.fromkeys(read, "hidden_or_not"))
    known = [f["text"] for f in result.data["findings"] if f["topic"] == "variable"]
    assert not [text for text in known if "unknown" in text]
    for secret in ("API_KEY", "KEY_PASSWORD", "SSL_PASSWORD"):
        assert any(text.startswith(f"NEURON_ARTIFACTS_{secret}: honoured") for text in known)


def test_nothing_heavy_is_imported_for_a_hit(place: Path) -> None:
    program = (
        "import sys\nsys.argv = ['neuron-artifacts', 'compile', 'model', *sys.argv[1:]]\n"
        "from neuron_artifacts.cli import main\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert stop.code == 0, stop.code\n"
        "heavy = {'torch', 'transformers', 'fastapi', 'uvicorn', 'numpy', 'rich', 'httpx',"
        " 'huggingface_hub', 'tokenizers', 'jinja2', 'yaml', 'prometheus_client'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )
    import os
    import subprocess
    import sys

    result = subprocess.run(
        [sys.executable, "-c", program, *map(str, FLAGS)], cwd=place, capture_output=True,
        text=True, check=True, env=dict(os.environ),
    )  # fmt: skip
    assert "hit" in result.stdout
    assert result.stderr.strip().splitlines()[-1] == "[]"

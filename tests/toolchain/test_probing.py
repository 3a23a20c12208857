"""What an interpreter says of itself, and when it is asked again."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from neuron_artifacts.toolchain.generations import PROBED
from neuron_artifacts.toolchain.probing import Report, probe_interpreter, recall_or_probe
from tests.toolchain.environments import (
    NXDI,
    VERSION,
    add_package,
    bare_environ,
    make_environment,
    site_packages,
)

LONG_AGO = 1_500_000_000


def settle(folder: Path) -> None:
    """Let everything be old: what has just changed is never remembered."""
    for place in (folder / "bin", folder / "pyvenv.cfg", *folder.rglob("site-packages")):
        os.utime(place, (LONG_AGO, LONG_AGO))


def test_packages_and_placeholders(tmp_path: Path) -> None:
    python = make_environment(
        tmp_path / "venv", NXDI, placeholders={"vllm-neuron": "0.1.0", "libtorch-neuronx-lite": "1"}
    )
    report = probe_interpreter(python, bare_environ())
    assert report.python == VERSION
    assert report.packages == NXDI
    assert report.placeholders == {"vllm-neuron": "0.1.0", "libtorch-neuronx-lite": "1"}
    assert str(site_packages(tmp_path / "venv")) in report.path


def test_names_are_normalised_and_broken_metadata_is_no_package(tmp_path: Path) -> None:
    python = make_environment(tmp_path / "venv")
    info = add_package(tmp_path / "venv", "neuronx_distributed", "0.18.27753")
    (site_packages(tmp_path / "venv") / "torch_neuronx-2.9.dist-info").mkdir()
    assert info.name.startswith("neuronx_distributed-")
    assert probe_interpreter(python, bare_environ()).packages == {
        "neuronx-distributed": "0.18.27753"
    }


def test_nothing_of_the_environment_leaks_in(tmp_path: Path) -> None:
    python = make_environment(tmp_path / "venv")
    other = make_environment(tmp_path / "other", NXDI).parent.parent
    environ = bare_environ(PYTHONPATH=str(site_packages(other)), PYTHONSTARTUP="/nowhere")
    assert probe_interpreter(python, environ).packages == {}


def test_no_library_is_imported(tmp_path: Path) -> None:
    python = make_environment(tmp_path / "venv", NXDI)
    for name in PROBED:
        module = site_packages(tmp_path / "venv") / f"{name.replace('-', '_')}.py"
        module.write_text("raise SystemExit('imported')")
    assert probe_interpreter(python, bare_environ()).packages == NXDI


def test_talk_at_start_up_does_not_matter(tmp_path: Path) -> None:
    startup = "import sys\nprint('{\"python\": \"9.9\"}')\nsys.stdout.write('no line end')\n"
    python = make_environment(tmp_path / "venv", NXDI, startup=startup)
    assert probe_interpreter(python, bare_environ()).packages == NXDI


@pytest.mark.parametrize(
    ("script", "kind", "said"),
    [
        ("#!/bin/sh\necho hello\n", ValueError, "not answer like Python"),
        ("#!/bin/sh\nexit 7\n", ValueError, "code 7"),
        ('#!/bin/sh\necho "$4[]"\n', ValueError, "not a JSON object"),
        ('#!/bin/sh\necho "$4{}"\n', ValueError, "something else"),
        ('#!/bin/sh\necho "$4{"\n', ValueError, "Expecting"),
        ("#!/bin/sh\nsleep 600\n", TimeoutError, "no answer within 0.5 s"),
        ("\x7fELF not really", OSError, "Exec format"),
    ],
)
def test_what_is_no_python(tmp_path: Path, script: str, kind: type[Exception], said: str) -> None:
    program = tmp_path / "python"
    program.write_text(script)
    program.chmod(0o755)
    seconds = 0.5 if kind is TimeoutError else 30.0
    with pytest.raises(kind, match=said):
        probe_interpreter(program, bare_environ(PATH="/usr/bin:/bin"), seconds=seconds)


def test_a_hanging_environment_is_given_up(tmp_path: Path) -> None:
    python = make_environment(tmp_path / "venv", startup="import time\ntime.sleep(600)\n")
    with pytest.raises(TimeoutError):
        probe_interpreter(python, bare_environ(), seconds=0.5)


@pytest.mark.parametrize("version", ["3.8", "3.9", "3.10", "3.13"])
def test_the_probe_runs_in_old_interpreters(version: str) -> None:
    program = find_python(version)
    if program is None:
        pytest.skip(f"there is no Python {version} here")
    assert probe_interpreter(program, dict(os.environ)).python == version


def find_python(version: str) -> Path | None:
    """On ``PATH``, or among those that pyenv has built."""
    names = [*Path.home().glob(f".pyenv/versions/{version}.*/bin/python")]
    names += [Path(found) for found in [shutil.which(f"python{version}")] if found]
    for program in names:
        if subprocess.run([program, "-c", ""], capture_output=True, check=False).returncode == 0:
            return program
    return None


def counting_python(tmp_path: Path) -> tuple[Path, Path]:
    """An environment that writes a line each time it starts."""
    note = tmp_path / "starts"
    startup = f"open({str(note)!r}, 'a').write('x')\n"
    return make_environment(tmp_path / "venv", NXDI, startup=startup), note


def test_it_is_asked_once(tmp_path: Path) -> None:
    python, note = counting_python(tmp_path)
    settle(tmp_path / "venv")
    first = recall_or_probe(python, bare_environ(), tmp_path / "cache")
    second = recall_or_probe(python, bare_environ(), tmp_path / "cache")
    assert first == second
    assert second.packages == NXDI
    assert note.read_text() == "x"


def test_what_has_just_changed_is_not_remembered(tmp_path: Path) -> None:
    python, note = counting_python(tmp_path)
    for _ in range(2):
        recall_or_probe(python, bare_environ(), tmp_path / "cache")
    assert note.read_text() == "xx"


def upgrade(folder: Path, cache: Path) -> None:
    for info in site_packages(folder).glob("neuronx_cc-*"):
        shutil.rmtree(info)
    add_package(folder, "neuronx-cc", "2.25.3371.0")


def other_binary(folder: Path, cache: Path) -> None:
    python = folder / "bin/python"
    copy = folder / "bin/copy"
    shutil.copy(os.path.realpath(python), copy)
    os.utime(copy, (LONG_AGO, LONG_AGO))
    python.unlink()
    python.symlink_to("copy")


def other_settings(folder: Path, cache: Path) -> None:
    (folder / "pyvenv.cfg").write_text((folder / "pyvenv.cfg").read_text() + "\n")


def spoil(content: str) -> object:
    def change(folder: Path, cache: Path) -> None:
        for entry in cache.iterdir():
            entry.write_text(content)

    return change


@pytest.mark.parametrize(
    "change",
    [
        upgrade, other_binary, other_settings, spoil(""), spoil("[]"), spoil("null"),
        spoil('{"report": {"python": "3.11"}}'), spoil("[" * 3000),
    ],
    ids=["upgrade", "binary", "settings", "empty", "list", "null", "partial", "deep"],
)  # fmt: skip
def test_it_is_asked_again(tmp_path: Path, change: object) -> None:
    python, note = counting_python(tmp_path)
    settle(tmp_path / "venv")
    cache = tmp_path / "cache"
    recall_or_probe(python, bare_environ(), cache)
    change(tmp_path / "venv", cache)  # type: ignore[operator]
    report = recall_or_probe(python, bare_environ(), cache)
    assert note.read_text() == "xx"
    expected = {**NXDI, "neuronx-cc": "2.25.3371.0"} if change is upgrade else NXDI
    assert report.packages == expected


def test_a_cache_that_cannot_be_used_costs_time_only(tmp_path: Path) -> None:
    python, note = counting_python(tmp_path)
    settle(tmp_path / "venv")
    (tmp_path / "cache").write_text("a file, where a folder should be")
    for _ in range(2):
        report = recall_or_probe(python, bare_environ(), tmp_path / "cache")
        assert report.packages == NXDI
    assert note.read_text() == "xx"


def test_a_script_that_starts_python_is_asked_each_time(tmp_path: Path) -> None:
    """A version manager's answer depends on where it is asked."""
    reports: list[Report] = []
    for name in ("one", "two"):
        make_environment(tmp_path / name, {"torch": name})
        settle(tmp_path / name)
    script = tmp_path / "python"
    for name in ("one", "two"):
        script.write_text(f'#!/bin/sh\nexec {tmp_path / name}/bin/python "$@"\n')
        script.chmod(0o755)
        os.utime(script, (LONG_AGO, LONG_AGO))
        reports.append(recall_or_probe(script, bare_environ(), tmp_path / "cache"))
    assert [report.packages["torch"] for report in reports] == ["one", "two"]
    assert reports[1].executable == str(tmp_path / "two/bin/python")
    assert sys.executable != reports[1].executable

"""What starting the command line costs: a call imports its own command, and no validators."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from neuron_artifacts.cli._app import COMMANDS, GROUP_HELP, _load, build_app
from tests.cli.run import run
from tests.neuron_cache.cache_hub import CacheHub
from tests.neuron_cache.caches import REPO, Cache
from tests.neuron_cache.model_configs import LLAMA, QWEN3

PROBE = """
import sys
from neuron_artifacts.cli import main
try:
    main()
except SystemExit:
    pass
print(*sorted(sys.modules), file=sys.stderr)
"""

_PROXIES = ("http_proxy", "https_proxy", "all_proxy")


def imported(*arguments: str, **environ: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *arguments], check=True, capture_output=True, text=True,
        env={**os.environ, **environ},
    )  # fmt: skip
    return set(done.stderr.splitlines()[-1].split())


INTERRUPTED = """
import sys
from neuron_artifacts.cli import main

class Finder:
    def find_spec(self, name, *rest):
        if name == "typer":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Finder())
main()
"""


def test_an_interrupt_while_modules_load_shows_no_traceback() -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, "list"], check=False, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


def test_every_command_is_where_it_is_said_to_be() -> None:
    for place in COMMANDS.values():
        for command in place.values() if isinstance(place, dict) else [place]:
            assert callable(_load(command))
    groups = {name for name, place in COMMANDS.items() if isinstance(place, dict)}
    assert groups == GROUP_HELP.keys()
    assert all(isinstance(_load(text), str) for text in GROUP_HELP.values())


def test_the_help_names_every_command() -> None:
    shown = run("--help").out
    assert all(f" {name} " in shown for name in COMMANDS)
    assert "Did you mean 'compile'" in run("compil").err


def explained(command: Any, called: str = "") -> dict[str, bool]:
    """Whether the help of each command, and of its every option, says anything."""
    found = {called: bool(command.help)}
    for param in command.params:
        if param.param_type_name == "option":
            found[f"{called} {param.opts[0]}"] = bool(param.help)
    for name, child in getattr(command, "commands", {}).items():
        found |= explained(child, f"{called} {name}")
    return found


def test_every_option_is_explained() -> None:
    found = explained(typer.main.get_command(build_app()))
    assert " remote gc --grace" in found
    assert [name for name, is_said in found.items() if not is_said] == []


@pytest.mark.parametrize(
    "arguments", [("--version",), ("list", "--store", "/none"), ("cache-lookup", "/none")]
)
def test_a_call_imports_little(arguments: tuple[str, ...]) -> None:
    modules = imported(*arguments)
    assert not modules & {"pydantic", "numpy", "torch", "transformers", "fastapi", "httpx2"}
    ours = {name for name in modules if name.startswith("neuron_artifacts.cli.")}
    if arguments[0] == "list":
        assert "neuron_artifacts.cli.serve" not in ours


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("serve", "--artifacts", "/none", "--port", "abc"), "valid integer"),
        (("generate", "--artifacts", "/none", "--max-tokens", "1.5"), "valid integer"),
        (("serve", "--artifacts", "/none", "--verify", "maybe"), "maybe"),
        (("cache-lookup", "--source"), "requires an argument"),
    ],
)
def test_what_is_given_is_validated(arguments: tuple[str, ...], said: str) -> None:
    result = run(*arguments)
    assert result.code == 2
    assert said in result.err


@pytest.mark.parametrize("config", [LLAMA, QWEN3], ids=["named by an entry", "by none"])
def test_a_lookup_needs_little_of_huggingface_hub(config: dict[str, Any], tmp_path: Path) -> None:
    cache = Cache()
    cache.add("0.4.5", "llama", "org/llama", batch_size=4)
    question = ("cache-lookup", "org/llama", "--backend", "optimum", "--cache-repo", REPO)
    with CacheHub() as hub:
        hub.commit(REPO, cache.files)
        hub.commit("org/llama", {"config.json": json.dumps(config).encode()})
        environ = {
            "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "hf"),
            "NEURON_ARTIFACTS_CACHE": str(tmp_path / "ours"),
            **{name: "" for word in _PROXIES for name in (word, word.upper())},
        }  # fmt: skip
        for _ in ("cold", "warm"):
            modules = imported(*question, **environ)
            theirs = {name for name in modules if name.startswith("huggingface_hub")}
            assert theirs == {"huggingface_hub", "huggingface_hub.constants"}
            others = {"yaml", "neuron_artifacts.plan", "neuron_artifacts.toolchain.discovery"}
            assert not modules & others

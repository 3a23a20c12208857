"""What starting the command line costs: a call imports its own command, and no validators."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import typer

from neuron_artifacts.cli._app import COMMANDS, GROUP_HELP, _load, build_app
from tests.cli.run import run

PROBE = """
import sys
from neuron_artifacts.cli import main
try:
    main()
except SystemExit:
    pass
print(*sorted(sys.modules), file=sys.stderr)
"""


def imported(*arguments: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *arguments], check=True, capture_output=True, text=True
    )
    return set(done.stderr.splitlines()[-1].split())


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

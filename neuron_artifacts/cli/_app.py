"""The application: which commands there are."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer

from neuron_artifacts._version import __version__
from neuron_artifacts.cli import _output
from neuron_artifacts.cli._errors import handle_errors

HELP = """Compile a Hugging Face model ahead of time, and serve exactly what was compiled.

Exit codes: 0 ok or hit, 1 error, 2 usage, 3 miss, 4 incompatible, 5 corrupt, 6 untrusted,
7 refused by preflight, 130 interrupted.
"""

Command = Callable[..., int | None]

COMMANDS: dict[str, str | dict[str, str]] = {
    "compile": "compile_:compile_command",
    "cache-lookup": "lookup:lookup_command",
    "key": "key:key_command",
    "diff": "diff:diff_command",
    "list": "list_:list_command",
    "inspect": "inspect_:inspect_command",
    "validate": "validate:validate_command",
    "adopt": "adopt:adopt_command",
    "serve": "serve:serve_command",
    "env": "env:env_command",
    "generate": "generate:generate_command",
    "verify": "verify:verify_command",
    "repair": "repair:repair_command",
    "sbom": "sbom:sbom_command",
    "sign": "sign:sign_command",
    "keygen": "sign:keygen_command",
    "gc": "gc:gc_command",
    "pin": "gc:pin_command",
    "unpin": "gc:unpin_command",
    "convert-eagle": "convert_eagle:convert_eagle_command",
    "doctor": "doctor:doctor_command",
    "push": "push:push_command",
    "pull": "pull:pull_command",
    "export": "export_:export_command",
    "import": "export_:import_command",
    "remote": {
        "add": "remote:add_command",
        "list": "remote:list_command",
        "remove": "remote:remove_command",
        "gc": "remote_gc:gc_command",
    },
    "toolchains": {"list": "toolchains:list_command"},
}
"""Where the command, or each command of a group, is defined, by the word that calls it."""

GROUP_HELP: dict[str, str] = {
    "remote": "remote:HELP", "toolchains": "toolchains:HELP",
}  # fmt: skip
"""What each group is about."""


def build_app(only: str = "") -> typer.Typer:
    """Every command, each run under the one error handler; or the one that will be called.

    Commands are imported here, so that a call pays for its own alone.
    """
    app = typer.Typer(
        name="neuron-artifacts", no_args_is_help=True,
        pretty_exceptions_enable=False, context_settings={"help_option_names": ["-h", "--help"]},
    )  # fmt: skip
    app.callback(help=_reflow(HELP))(_root)
    _add_commands(app, {only: COMMANDS[only]} if only in COMMANDS else COMMANDS)
    return app


def _add_commands(app: typer.Typer, commands: Mapping[str, str | dict[str, str]]) -> None:
    for name, place in commands.items():
        if isinstance(place, dict):
            group = typer.Typer(name=name, no_args_is_help=True, help=_load(GROUP_HELP[name]))
            # Without a callback, typer would make a group of one command that command.
            group.callback()(lambda: None)
            _add_commands(group, place)
            app.add_typer(group)
        else:
            command: Command = _load(place)
            app.command(name, help=_reflow(command.__doc__ or ""))(handle_errors(command))


def _load(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(f"neuron_artifacts.cli.{module}"), name)


def _version(value: bool) -> None:
    if value:
        _output.write(f"neuron-artifacts {__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    pass


def _reflow(text: str) -> str:
    """Paragraphs on one line each, so that the terminal's width decides where they break."""
    paragraphs = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)

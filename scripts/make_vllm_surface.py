"""Write tests/data/vllm_surface/: flags and variables that each vLLM for Neuron reads.

    python scripts/make_vllm_surface.py FOLDER

FOLDER holds clones of the repositories of :data:`SOURCES`, each as ``owner+name/repo``, bare or
not, and vLLM's source distributions of PyPI as ``vllm-<version>``. Flags are the literals of
``add_argument`` calls; one that has a ``--no-`` as well counts twice. Variables are the literals
that ``os.environ`` and ``os.getenv`` are asked for. vllm-neuron 0.21 has no public repository:
what its guides name counts there, code or not.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

OUTPUT = Path(__file__).parent.parent / "tests" / "data" / "vllm_surface" / "surface.json"
FORK, PLUGIN = "aws-neuron/upstreaming-to-vllm", "vllm-project/vllm-neuron"
NXDI, NXD = "aws-neuron/neuronx-distributed-inference", "aws-neuron/neuronx-distributed"
SDK = "aws-neuron/aws-neuron-sdk"
COPY, OPTIMUM = "whn09/vllm-neuron", "huggingface/optimum-neuron"
SOURCES: Mapping[str, tuple[str, str, tuple[str, ...]]] = {
    **{
        f"aws-fork-{sdk}": (FORK, f"neuron-{sdk}-vllm-v0.7.2", ("vllm", "examples"))
        for sdk in ("2.21", "2.22", "2.23", "2.24")
    },
    "vllm-main": (FORK, "main", ("vllm",)),
    "vllm-neuron-0.2": (PLUGIN, "0.2.0", ("vllm_neuron",)),
    "vllm-neuron-0.5": (COPY, "release-0.5.0", ("vllm_neuron",)),
    "vllm-neuron-0.21": (SDK, "master", ("vllm-neuron/docs",)),
    "optimum": (OPTIMUM, "v0.4.5", ("optimum",)),
    "nxdi": (NXDI, "main", ("src",)),
    "nxd": (NXD, "main", ("src",)),
    **{
        f"vllm-{version}": ("vllm", version, ("vllm",))
        for version in ("0.11.0", "0.16.0", "0.21.0")
    },
}
NAMED = re.compile(r"\b(?:NEURON|NKI|VLLM)_[A-Z0-9_]*[A-Z0-9]\b")
ENVIRON = ("os.environ", "environ")
READERS = {"get", "getenv", "pop", "setdefault"}
BOTH_WAYS = {"BooleanOptionalAction"}


def git(repository: Path, *arguments: str) -> str:
    command = ["git", "-C", str(repository), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def texts(place: Path, ref: str, folders: tuple[str, ...]) -> Iterator[str]:
    if not (place / "repo").is_dir():
        for folder in folders:
            for path in sorted((place / folder).rglob("*.py")):
                yield path.read_text(encoding="utf-8")
        return
    names = git(place / "repo", "ls-tree", "-r", "--name-only", ref, *folders).splitlines()
    for name in names:
        if name.endswith(".md" if folders[0].endswith("docs") else ".py"):
            yield git(place / "repo", "show", f"{ref}:{name}")


def flags_in(call: ast.Call) -> Iterator[str]:
    if not (isinstance(call.func, ast.Attribute) and call.func.attr == "add_argument"):
        return
    keywords = {word.arg: word.value for word in call.keywords}
    action = ast.unparse(keywords["action"]) if "action" in keywords else ""
    # From 0.9 on vLLM makes them of its configuration's fields: ``**kwargs`` hide the action.
    hidden = None in keywords
    for flag in call.args:
        if isinstance(flag, ast.Constant) and str(flag.value).startswith("--"):
            yield flag.value
            if hidden or action.rpartition(".")[2] in BOTH_WAYS:
                yield f"--no-{flag.value[2:]}"


def variable_in(node: ast.AST) -> str | None:
    """The variable that is asked for; a constant is taken to be called as its value."""
    key: ast.AST | None = None
    if isinstance(node, ast.Subscript) and ast.unparse(node.value) in ENVIRON:
        key = node.slice
    elif isinstance(node, ast.Compare) and ast.unparse(node.comparators[0]) in ENVIRON:
        key = node.left
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
        owner = ast.unparse(node.func.value)
        if node.func.attr in READERS and owner in ("os", *ENVIRON):
            key = node.args[0]
    if isinstance(key, ast.Constant) and isinstance(key.value, str):
        return key.value
    name = ast.unparse(key).rpartition(".")[2] if isinstance(key, (ast.Name, ast.Attribute)) else ""
    return name if name.isupper() else None


def survey(place: Path, ref: str, folders: tuple[str, ...]) -> dict[str, object]:
    flags: set[str] = set()
    variables: set[str] = set()
    for text in texts(place, ref, folders):
        if folders[0].endswith("docs"):
            variables.update(NAMED.findall(text))
            continue
        if "add_argument" not in text and "environ" not in text and "getenv" not in text:
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call):
                flags.update(flags_in(node))
            if name := variable_in(node):
                variables.add(name)
    return {"flags": sorted(flags), "variables": sorted(variables)}


def main(folder: Path) -> None:
    found = {}
    for name, (source, ref, folders) in SOURCES.items():
        place = folder / (source.replace("/", "+") if "/" in source else f"{source}-{ref}")
        found[name] = {"source": source, "ref": ref, **survey(place, ref, folders)}
    OUTPUT.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

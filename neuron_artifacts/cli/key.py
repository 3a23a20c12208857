"""``key``: the key of a request, and the document it is the digest of."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from neuron_artifacts.cli import _output
from neuron_artifacts.cli._options import AsJson, SpecSources, takes_spec
from neuron_artifacts.cli._progress import show_progress
from neuron_artifacts.cli.vllm_key import VllmOptions, print_vllm_key, takes_vllm_options
from neuron_artifacts.spec import resolve_spec


@takes_spec
@takes_vllm_options
def key_command(
    *,
    sources: SpecSources,
    vllm: VllmOptions | None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Also print the document behind the key.")
    ] = False,
    as_json: AsJson = False,
) -> int:
    """Print the key of MODEL with this configuration. Nothing is compiled or downloaded whole."""
    from neuron_artifacts.build import resolve_request

    if vllm is not None:
        return print_vllm_key(sources, vllm, explain=explain, as_json=as_json)
    spec = resolve_spec(sources.flags, config_file=sources.config_file)
    with show_progress() as observe:
        key = resolve_request(spec, observe=observe, weights=False).key
    if as_json:
        body = {
            "key": key.key,
            "graphs_digest": key.graphs_digest,
            "weights_digest": key.weights_digest,
        }
        _output.print_json({**body, "document": key.document} if explain else body)
        return 0
    _output.write(key.key)
    if explain:
        _output.write(json.dumps(key.document, indent=2, sort_keys=True, ensure_ascii=False))
    return 0

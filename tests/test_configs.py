"""Every ready configuration for Neuron: through preflight, vLLM's hash and the key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from neuron_artifacts.backends.findings import Finding
from neuron_artifacts.backends.nxdi.families import family_for
from neuron_artifacts.backends.nxdi.identity import graphs_document, list_graphs
from neuron_artifacts.backends.nxdi.levels import SdkLevel, host_of, level_of
from neuron_artifacts.backends.nxdi.neuron_config import (
    build_neuron_config,
    fill_in_neuron_config,
)
from neuron_artifacts.backends.nxdi.preflight import examine
from neuron_artifacts.backends.nxdi.request import NeuronRequest, make_request
from neuron_artifacts.backends.nxdi.vllm_hash import VllmHash, vllm_artifact_hash
from neuron_artifacts.key import digest_of
from neuron_artifacts.model import ModelSnapshot
from neuron_artifacts.spec import CompileSpec, resolve_spec
from neuron_artifacts.toolchain.platforms import resolve_platform
from tests.backends.nxdi.preflight.requests import Machine, adapter, eagle_draft, snapshot
from tests.models import ROOT

DATA = Path(__file__).parent / "data" / "configs"
SDKS = ("2.27", "2.29")
NEURON = [p for p in sorted(ROOT.glob("configs/*.yaml")) if "backend: nxdi" in p.read_text()]


@pytest.fixture(params=NEURON, ids=lambda path: path.stem)
def path(request: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration, run where its adapters lie."""
    monkeypatch.chdir(tmp_path)
    modules = ["q_proj", "k_proj", "v_proj", "o_proj"]
    base = "meta-llama/Llama-3.1-8B-Instruct"
    for name in ("lora_id_1", "lora_id_2"):
        folder = tmp_path / "lora_adapters" / name
        adapter(folder, r=32, target_modules=modules, base_model_name_or_path=base)
    chosen: Path = request.param
    return chosen


def read(path: Path, sdk: str) -> tuple[CompileSpec, dict[str, Any], NeuronRequest, SdkLevel]:
    spec = resolve_spec({}, environ={}, config_file=path)
    config = json.loads((DATA / f"{spec.model.replace('/', '--')}.json").read_bytes())
    return spec, config, make_request(spec, config, sdk=sdk), level_of(sdk)


def draft_of(spec: CompileSpec) -> ModelSnapshot | None:
    if spec.speculative_model is None:
        return None
    config = json.loads((DATA / f"{spec.speculative_model}.json").read_bytes())
    return eagle_draft(config=config)


def preflight(path: Path, sdk: str) -> tuple[Finding, ...]:
    spec, config, request, level = read(path, sdk)
    platform = resolve_platform(spec.target, None, {})
    fields = fill_in_neuron_config(
        request.arguments, family=family_for(config, request.loader, level), level=level,
        host=host_of(level, spec.target, platform.environ, "3.11"),
    )  # fmt: skip
    return examine(
        snapshot(config, name=spec.model), fields, raw=request.arguments, level=level,
        platform=platform, draft=draft_of(spec), environ={}, resources=Machine(),
    )  # fmt: skip


def vllm_hash(path: Path, sdk: str, **changes: Any) -> VllmHash:
    spec, config, request, _ = read(path, sdk)
    draft = draft_of(spec)
    return vllm_artifact_hash(
        {**config, **changes}, model=spec.model, sdk=sdk, loader=request.loader,
        target=spec.target, arguments=request.vllm,
        override_neuron_config={
            name: value for name, value in request.arguments.items()
            if name in {*request.override, "context_encoding_buckets", "token_generation_buckets",
                        "max_context_length"}
        },
        draft_config=draft.config if draft else None,
    )  # fmt: skip


@pytest.mark.parametrize("sdk", SDKS)
def test_preflight_has_nothing_against_it(path: Path, sdk: str) -> None:
    found = preflight(path, sdk)
    assert [finding for finding in found if finding.severity != "note"] == []
    rules = {finding.rule for finding in found}
    assert {"hbm-estimate", "cores-fit", "graphs"} <= rules
    fits = next(f.message for f in found if f.rule == "cores-fit")
    assert (machine := _machine(path)) is None or machine in fits


def _machine(path: Path) -> str | None:
    """The machine that the file's first line promises."""
    words = path.read_text().splitlines()[0].rstrip(".").replace(",", "").split()
    return next((word for word in words if word.endswith("xlarge")), None)


@pytest.mark.parametrize("sdk", SDKS)
def test_vllm_would_build_it_too(path: Path, sdk: str) -> None:
    once, again = vllm_hash(path, sdk), vllm_hash(path, sdk)
    assert once.md5 == again.md5
    assert vllm_hash(path, sdk, rms_norm_eps=0.5).md5 != once.md5
    assert json.loads(once.document)["neuron_config"]["tp_degree"] == read(path, sdk)[0].tp_degree


def test_no_two_of_them_have_one_key(tmp_path: Path) -> None:
    keys = {}
    for path in NEURON:
        spec, config, request, level = read(path, "2.29")
        if "lora" in path.stem:
            continue  # its adapters are only in the fixture's folder
        fields = build_neuron_config(
            request.arguments, family=family_for(config, request.loader, level), level=level,
            host=host_of(level, spec.target, {}, "3.11"),
        )  # fmt: skip
        draft = draft_of(spec)
        document = graphs_document(
            backend="nxdi", target=spec.target, toolchain={}, config=config, neuron_config=fields,
            environ={}, draft=draft.config if draft else None,
        )  # fmt: skip
        keys[digest_of(document)] = path.stem
        assert list_graphs(fields)
    assert len(keys) == len(NEURON) - 1

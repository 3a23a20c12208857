"""vLLM's hash against NxD Inference's own code, and what may and may not change it."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from neuron_artifacts.backends.nxdi.levels import TRANSFORMERS
from neuron_artifacts.backends.nxdi.loaders import LOADERS, Speculation, VllmArguments
from neuron_artifacts.backends.nxdi.vllm_hash import vllm_artifact_hash
from neuron_artifacts.errors import NeuronArtifactsError, SpecError, UnsupportedModelError
from tests.backends.nxdi.vectors import compute, each, read

VECTORS = list(each("vectors"))
RANDOM = list(each("random"))
MODELS = read("vectors")["models"]
RANDOM_MODELS = read("random")["models"]
LOADED = list(each("loaders"))
LOADED_MODELS = read("loaders")["models"]
LOADED_FILES = read("loaders")["files"]
LLAMA = MODELS["tiny-llama"]
OPTIONS = VllmArguments(2, 4, 512, "bfloat16")


@pytest.fixture
def adapters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working directory with the LoRA adapters that the vectors name."""
    for name, content in LOADED_FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(json.dumps(content))
    monkeypatch.chdir(tmp_path)


def md5(config: Mapping[str, Any] = LLAMA, **changes: Any) -> str:
    call: dict[str, Any] = {"model": "tiny-llama", "sdk": "2.24", **changes}
    return vllm_artifact_hash(config, **call).md5


def md5_of_loader(loader: str, arguments: VllmArguments = OPTIONS, **changes: Any) -> str:
    return md5(**{"loader": loader, "arguments": arguments, "sdk": "2.29", **changes})


@pytest.mark.parametrize(
    ("case", "sdk", "expected"), [v[1:] for v in VECTORS], ids=[v[0] for v in VECTORS]
)
def test_vector(case: Mapping[str, Any], sdk: str, expected: str) -> None:
    result = compute(case, sdk, MODELS)
    assert result.md5 == expected
    if sdk in case.get("json", {}):
        assert result.document == case["json"][sdk]


@pytest.mark.parametrize(
    ("case", "sdk", "expected"), [v[1:] for v in RANDOM], ids=[v[0] for v in RANDOM]
)
def test_random_options(case: Mapping[str, Any], sdk: str, expected: str | None) -> None:
    if expected is None:
        with pytest.raises(NeuronArtifactsError):
            compute(case, sdk, RANDOM_MODELS)
    else:
        assert compute(case, sdk, RANDOM_MODELS).md5 == expected


@pytest.mark.parametrize(
    ("case", "sdk", "expected"), [v[1:] for v in LOADED], ids=[v[0] for v in LOADED]
)
def test_real_loaders(
    case: Mapping[str, Any], sdk: str, expected: str | None, adapters: None
) -> None:
    if expected is None:
        with pytest.raises(NeuronArtifactsError):
            compute(case, sdk, LOADED_MODELS)
    else:
        assert compute(case, sdk, LOADED_MODELS).md5 == expected


def test_hash_published_from_a_real_host() -> None:
    """TinyLlama, tp 2, 8 sequences of 128, SDK 2.24: the one hash known from a device."""
    name = "TinyLlama/TinyLlama-1.1B-Chat-v1.0"
    found = md5_of_loader(
        "aws-fork-2.24", VllmArguments(2, 8, 128, "auto"), config=MODELS[name], model=name,
        sdk="2.24",
    )  # fmt: skip
    assert found == "302fdb8c07ace8605c4430094da27814"


def test_the_digest_is_of_the_document() -> None:
    result = vllm_artifact_hash(LLAMA, model="tiny-llama", sdk="2.29")
    assert hashlib.md5(result.document.encode()).hexdigest() == result.md5
    assert '"quantize_clamp_bound": Infinity' in result.document


TWO_ADAPTERS = {
    "lora_config": {"max_loras": 2, "lora_ckpt_paths": {n: f"lora/adapter-{n}" for n in "ab"}}
}


@pytest.mark.parametrize(
    ("seed", "modules"),
    [
        ("0", ["v_proj", "k_proj", "q_proj"]),
        ("1", ["k_proj", "v_proj", "q_proj"]),
        ("42", ["q_proj", "v_proj", "k_proj"]),
    ],
)
@pytest.mark.skipif(sys.version_info < (3, 11), reason="older Python hashes text in another way")
def test_a_fixed_hash_seed_orders_lora_modules(
    seed: str, modules: list[str], adapters: None
) -> None:
    """The orders that NxD Inference's LoraServingConfig gave under CPython 3.11."""
    found = vllm_artifact_hash(
        LLAMA, model="m", sdk="2.24", override_neuron_config=TWO_ADAPTERS,
        environ={"PYTHONHASHSEED": seed},
    )  # fmt: skip
    assert json.loads(found.document)["neuron_config"]["lora_config"]["target_modules"] == modules


@pytest.mark.parametrize("seed", [None, "random", "minus one"])
def test_without_a_hash_seed_the_order_cannot_be_known(seed: str | None, adapters: None) -> None:
    environ = {} if seed is None else {"PYTHONHASHSEED": seed}
    with pytest.raises(SpecError, match=r"seed"):
        md5(override_neuron_config=TWO_ADAPTERS, environ=environ)


def test_inputs_stay_untouched() -> None:
    import copy

    override = {"context_encoding_buckets": [128, 64], "on_device_sampling_config": {}}
    config = {**LLAMA, "rope_scaling": {"type": "linear", "factor": 2.0}}
    before = copy.deepcopy((config, override))
    md5(config, override_neuron_config=override)
    assert (config, override) == before


@pytest.mark.parametrize("name", [n for n in LLAMA if n not in ("architectures", "model_type")])
def test_every_field_of_the_model_counts(name: str) -> None:
    value = LLAMA[name]
    other = {"hidden_act": "gelu", "torch_dtype": "float16", "transformers_version": "4.41.0"}
    changed = other.get(name, not value if isinstance(value, bool) else value * 2 + 2
                        if isinstance(value, (int, float)) else None)  # fmt: skip
    # Even the dtype shows: without an explicit one it moves into neuron_config.
    assert md5({**LLAMA, name: changed}) != md5()


def test_spelling_of_the_path_counts() -> None:
    names = ("tiny-llama", "tiny-llama/", "./tiny-llama", "/models/tiny-llama")
    assert len({md5(model=name) for name in names}) == len(names)


def test_an_unknown_argument_does_not_count() -> None:
    result = vllm_artifact_hash(
        LLAMA, model="tiny-llama", sdk="2.24", override_neuron_config={"fused_qvk": True}
    )
    assert result.md5 == md5()
    assert any("'fused_qvk'" in note for note in result.notes)


@pytest.mark.parametrize("sdk", TRANSFORMERS)
def test_each_level_and_generation_of_hardware(sdk: str) -> None:
    sampling = {"on_device_sampling_config": {}}
    by_target = {
        target: md5(sdk=sdk, target=target, override_neuron_config=sampling)
        for target in ("trn1", "trn1n", "inf2", "trn2")
    }
    assert by_target["trn1"] == by_target["trn1n"] == by_target["inf2"]
    # SDK 2.21 does not look at the platform.
    assert (by_target["trn2"] == by_target["trn1"]) == (sdk == "2.21")
    assert len({md5(sdk=level) for level in TRANSFORMERS}) == len(TRANSFORMERS)


def test_environment_counts_as_it_does_there() -> None:
    plain = md5()
    assert md5(environ={"NEURON_LOGICAL_NC_CONFIG": "2"}) != plain
    assert md5(environ={"NEURON_LOGICAL_NC_CONFIG": "-1"}) == plain
    assert md5(environ={"NEURON_PLATFORM_TARGET_OVERRIDE": "trn2"}) == md5(target="trn2") != plain
    assert md5(environ={"NEURON_CC_FLAGS": "-O3", "BASE_COMPILE_WORK_DIR": "/w"}) == plain
    # The variable beats the argument.
    forced = {"environ": {"NEURON_LOGICAL_NC_CONFIG": "2"}}
    assert md5(override_neuron_config={"logical_nc_config": 1}, **forced) == md5(**forced)


@pytest.mark.parametrize(
    ("loader", "environ", "error"),
    [
        ("vllm-neuron-0.2", {"NEURON_LOGICAL_NC_CONFIG": "two"}, SpecError),
        ("vllm-neuron-0.2", {"NEURON_PLATFORM_TARGET_OVERRIDE": "gpu"}, SpecError),
        ("aws-fork-2.24", {"ENABLE_NEURON_MULTI_NODE": "true"}, UnsupportedModelError),
        ("vllm-neuron-0.2", {"DISABLE_NEURON_CUSTOM_SCHEDULER": "1"}, UnsupportedModelError),
    ],
)
def test_environments_that_cannot_be_computed(
    loader: str, environ: dict[str, str], error: type[Exception]
) -> None:
    with pytest.raises(error):
        md5_of_loader(loader, environ=environ)


def test_variables_count_only_for_loaders_that_read_them() -> None:
    for loader, name in (
        ("vllm-neuron-0.2", "ENABLE_NEURON_MULTI_NODE"),
        ("aws-fork-2.24", "DISABLE_NEURON_CUSTOM_SCHEDULER"),
    ):
        assert md5_of_loader(loader, environ={name: "1"}) == md5_of_loader(loader)


@pytest.mark.parametrize(
    ("draft", "method", "is_eagle"),
    [
        ("draft", None, False),
        ("draft", "eagle", True),
        ("yuhuili/EAGLE-LLaMA3-Instruct-8B", None, True),
        ("yuhuili/EAGLE-LLaMA3-Instruct-8B", "eagle3", False),
        ("yuhuili/EAGLE3-LLaMA3.1-Instruct-8B", None, False),
    ],
)
def test_newer_vllm_knows_an_eagle_by_its_name(
    draft: str, method: str | None, is_eagle: bool
) -> None:
    speculation = Speculation(draft, 3, method)
    result = vllm_artifact_hash(
        LLAMA, model="m", sdk="2.29", loader="vllm-neuron-0.5", draft_config=LLAMA,
        arguments=VllmArguments(2, 4, 512, "bfloat16", speculation=speculation),
    )  # fmt: skip
    assert ('"is_eagle_draft": true' in result.document) == is_eagle


@pytest.mark.parametrize(
    "changes",
    [
        {"sdk": "2.20"},
        {"sdk": "2.24", "target": "trn3"},
        {"target": "tpu"},
        {"python": "3.9"},
        {"transformers": "4.49.0"},
        {"transformers": "4.51"},
        {"transformers": "4.56.2", "sdk": "2.28"},
        {"arguments": OPTIONS},
        {"loader": "vllm-main"},
        {"loader": "vllm-2", "arguments": OPTIONS},
        {"override_neuron_config": {"kv_quant_config": {}}, "sdk": "2.28"},
        {"override_neuron_config": {"seq_len": "long"}},
        {"override_neuron_config": {"tp_degree": [2]}},
    ],
)
def test_wrong_values_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(SpecError) as caught:
        md5(**changes)
    assert caught.value.message


@pytest.mark.parametrize(
    ("config", "changes"),
    [
        ({**LLAMA, "architectures": ["MllamaForConditionalGeneration"]}, {}),
        ({**LLAMA, "architectures": None}, {}),
        ({**LLAMA, "model_type": "gemma3"}, {}),
        (MODELS["tiny-qwen2"], {"sdk": "2.23"}),
        (MODELS["tiny-qwen3"], {"sdk": "2.24"}),
        (MODELS["tiny-mistral"], {}),
        (MODELS["tiny-qwen2"], {"loader": "vllm-main", "arguments": OPTIONS}),
        (MODELS["tiny-qwen2"], {"loader": "vllm-neuron-0.2", "arguments": OPTIONS}),
        ({**LLAMA, "attention_chunk_size": 64}, {}),
    ],
)
def test_unknown_models_are_refused(config: Mapping[str, Any], changes: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedModelError):
        md5(config, **changes)


def test_a_class_whose_text_is_not_public_is_refused() -> None:
    """Before 2.23 a draft's class is hashed through its members, docstring and all."""
    dbrx = RANDOM_MODELS["v-dbrx"]
    arguments = VllmArguments(2, 4, 512, "bfloat16", speculation=Speculation("d", 3))
    call = {"config": dbrx, "draft_config": dbrx, "arguments": arguments}
    assert md5_of_loader("vllm-main", **call, sdk="2.23")
    with pytest.raises(UnsupportedModelError):
        md5_of_loader("vllm-main", **call, sdk="2.22")


def test_forks_serve_mistral_with_the_llama_classes() -> None:
    for loader in LOADERS[:4]:
        assert md5_of_loader(loader, config=MODELS["tiny-mistral"])
    with pytest.raises(UnsupportedModelError):
        md5_of_loader("vllm-neuron-0.5", config=MODELS["tiny-mistral"])


def test_transformers_of_the_host_counts() -> None:
    assert md5(sdk="2.22", transformers="4.48.0") == md5(sdk="2.22")
    assert md5(sdk="2.22", transformers="4.48.3") != md5(sdk="2.22")
    # From 2.24 on the text has the model's own version instead.
    assert md5(sdk="2.24", transformers="4.51.0") == md5(sdk="2.24")
    older = vllm_artifact_hash(LLAMA, model="m", sdk="2.22", transformers="4.48.3")
    assert any("4.48.3" in note for note in older.notes)


def test_python_of_the_host_counts_for_experts_only() -> None:
    mixtral = MODELS["tiny-mixtral"]
    assert md5(mixtral, python="3.10") != md5(mixtral) == md5(mixtral, python="3.12")
    assert md5(mixtral, python="3.10", sdk="2.23") == md5(mixtral, sdk="2.23")
    assert md5(python="3.10") == md5()
    assert vllm_artifact_hash(mixtral, model="m", sdk="2.24").notes


@pytest.mark.parametrize("seed", ["0", "1", "4242"])
def test_nothing_depends_on_the_hash_seed(seed: str) -> None:
    program = (
        "from tests.backends.nxdi.test_vllm_hash import VECTORS, MODELS, compute\n"
        "print(all(compute(c, s, MODELS).md5 == m for _, c, s, m in VECTORS))"
    )
    environ = {**os.environ, "PYTHONHASHSEED": seed}
    output = subprocess.run(
        [sys.executable, "-c", program], env=environ, check=True, capture_output=True, text=True
    ).stdout
    assert output == "True\n"


def test_no_library_of_the_device_is_imported() -> None:
    program = (
        "import sys, tests.backends.nxdi.test_vllm_hash as t\n"
        "t.md5()\n"
        "print(sorted({'torch', 'transformers', 'vllm', 'numpy'} & set(sys.modules)))"
    )
    output = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    ).stdout
    assert output == "[]\n"


@pytest.mark.parametrize(("sdk", "pads"), [("2.27", False), ("2.28", True), ("2.29", True)])
def test_padded_hidden_size_moves_the_original(sdk: str, pads: bool) -> None:
    padding = {"padded_hidden_size": 128}
    result = vllm_artifact_hash(LLAMA, model="m", sdk=sdk, override_neuron_config=padding)
    assert ('"original_hidden_size": 64' in result.document) == pads
    assert ('\n  "hidden_size": 128' in result.document) == pads

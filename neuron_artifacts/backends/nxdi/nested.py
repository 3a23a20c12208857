"""The configuration objects inside NeuronConfig, as the dictionaries they are hashed as."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from neuron_artifacts.backends.nxdi.levels import Host, SdkLevel, read_table
from neuron_artifacts.errors import SpecError

_DTYPES = ("float32", "float16", "bfloat16")
_FLOAT8 = ("float8_e4m3fn", "float8_e5m2")


_HYBRID_SHARDING = dict.fromkeys(
    ("moe_cte_tp_degree", "moe_cte_ep_degree", "moe_tkg_tp_degree", "moe_tkg_ep_degree"), 1
)
_TENSOR_CAPTURE: Mapping[str, Any] = {
    "modules_to_capture": [],
    "max_intermediate_tensors": None,
    "auto_capture_moe_tensors": False,
    "capture_inputs": False,
}

_UNKNOWABLE = ("block_sharding_strategy", "blockwise_nki_autograd_cls")


def nested_defaults(level: SdkLevel) -> dict[str, Mapping[str, Any]]:
    """The entries of each nested object with their defaults; LoRA's are in its own module."""
    tables = read_table(f"neuron-config-{level.name}")
    found = {
        "on_device_sampling_config": tables["on_device_sampling_config"],
        "chunked_prefill_config": tables["chunked_prefill_config"],
        "hybrid_sharding_config": _HYBRID_SHARDING,
        "tensor_capture_config": _TENSOR_CAPTURE,
        **{name: tables["moe"].get(name) for name in ("blockwise_matmul_config", "router_config")},
    }
    return {name: table for name, table in found.items() if table}


def check_dtype(name: str, value: Any, level: SdkLevel) -> Any:
    """A dtype as NxD Inference accepts it by name.

    Raises
    ------
    SpecError
        It does not at this level.
    """
    known = (*_DTYPES, *_FLOAT8) if level.since("2.28") else _DTYPES
    if isinstance(value, str) and value not in known:
        raise SpecError(f"{name} {value!r} is not known", hint=f"one of {', '.join(known)}")
    return value


def on_device_sampling(given: Any, level: SdkLevel, host: Host) -> Any:
    """OnDeviceSamplingConfig: unknown entries are dropped, as the class drops them."""
    table = dict(read_table(f"neuron-config-{level.name}")["on_device_sampling_config"])
    if "top_k_kernel_enabled" in table and level.since("2.29"):
        table["top_k_kernel_enabled"] = not host.is_first_generation
    return _fill_known(given, table)


def chunked_prefill(given: Any, level: SdkLevel) -> Any:
    """ChunkedPrefillConfig, from 2.24 on."""
    return _fill_known(given, read_table(f"neuron-config-{level.name}")["chunked_prefill_config"])


def hybrid_sharding(given: Any) -> Any:
    """HybridShardingConfig of mixture-of-experts models."""
    return _fill_known(given, _HYBRID_SHARDING)


def tensor_capture(given: Any) -> Any:
    """TensorCaptureConfig; what is not an object switches the feature off."""
    if not isinstance(given, dict):
        return None
    capture = _fill_known(given, _TENSOR_CAPTURE)
    if capture["auto_capture_moe_tensors"]:
        # All captured expert statistics become one more tensor.
        most = capture["max_intermediate_tensors"]
        capture["max_intermediate_tensors"] = most + 1 if most else 1
    return capture


def blockwise_matmul(given: Any, table: Mapping[str, Any], level: SdkLevel, host: Host) -> Any:
    """BlockwiseMatmulConfig: two of its fields are enum members unless they are overridden.

    Raises
    ------
    SpecError
        Not an object, or a sharding strategy whose number is not public.
    """
    if not isinstance(given, dict):
        if level.since("2.27"):
            return given
        raise SpecError(f"blockwise_matmul_config must be an object, got {given!r}")
    default = deepcopy(dict(table))
    default["logical_nc_config"] = _logical_nc_enum(level, host)
    strategy = dict(default["block_sharding_strategy"])
    default["block_sharding_strategy"] = _enum(strategy, host)
    given = {**given}
    if given.get("block_sharding_strategy") == "HI_LO":
        del given["block_sharding_strategy"]
    for name in _UNKNOWABLE:
        if given.get(name) is not None:
            raise SpecError(
                f"blockwise_matmul_config.{name}={given[name]!r} cannot be known here",
                hint="only the default of this field has a known text",
            )
    if "block_sharding_strategy" in given:
        default["block_sharding_strategy"] = None
    return _fill_known(given, default)


def has_unknowable_entries(blockwise: Mapping[str, Any]) -> bool:
    """Whether :func:`blockwise_matmul` cannot tell what the class makes of it."""
    return any(blockwise.get(name) not in (None, "HI_LO") for name in _UNKNOWABLE)


def router(kwargs: Mapping[str, Any], level: SdkLevel) -> dict[str, Any]:
    """RouterConfig, from an object or from the two flat arguments it may come in.

    Raises
    ------
    SpecError
        An entry the class does not take, or an unknown dtype.
    """
    given = kwargs.get("router_config")
    if not isinstance(given, dict):
        given = {
            "act_fn": kwargs.get("router_act_fn", "softmax"),
            "dtype": kwargs.get("router_dtype", "float32"),
        }
        is_checked = True
    else:
        is_checked = level.since("2.28")
    if unknown := sorted(set(given) - {"act_fn", "dtype"}):
        raise SpecError(f"router_config has no entry {unknown[0]!r}")
    dtype = given.get("dtype", "float32")
    # This class has a mapping of its own, which never learnt the 8-bit types.
    if is_checked and isinstance(dtype, str) and dtype not in _DTYPES:
        raise SpecError(f"router_config.dtype {dtype!r} is not known")
    return {"act_fn": given.get("act_fn", "softmax"), "dtype": dtype}


def _logical_nc_enum(level: SdkLevel, host: Host) -> dict[str, Any]:
    newer = ("trn2", "trn3") if level.since("2.27") else ("trn2",)
    value = 2 if host.target in newer else 1
    if host.logical_nc_config is not None and level.since("2.25"):
        value = host.logical_nc_config
        if value not in (1, 2):
            raise SpecError(f"NEURON_LOGICAL_NC_CONFIG={value} is neither 1 nor 2")
    member = {
        "_value_": value,
        "_name_": f"LNC_{value}",
        "__objclass__": {
            "__module__": "neuronx_distributed.utils.model_utils",
            "__name__": "LogicalNCConfig",
        },
        "_sort_order_": value - 1,
    }
    return _enum(member, host)


def _enum(member: Mapping[str, Any], host: Host) -> dict[str, Any]:
    """An enum member is hashed through its instance attributes; Python 3.11 added one."""
    hidden = "_sort_order_" if host.python == "3.10" else None
    return {name: value for name, value in member.items() if name != hidden}


def _fill_known(given: Any, table: Mapping[str, Any]) -> Any:
    """The table with the entries of ``given`` it knows; anything but an object stays as it is."""
    if not isinstance(given, dict):
        return given
    return {name: deepcopy(given.get(name, default)) for name, default in table.items()}

"""The SDK levels whose NxD Inference is known here, and the platforms they run on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any

from neuron_artifacts.errors import SpecError

TRANSFORMERS = {
    "2.21": "4.45.2",
    "2.22": "4.48.0",
    "2.23": "4.48.0",
    "2.24": "4.51.3",
    "2.25": "4.51.3",
    "2.26": "4.51.3",
    "2.27": "4.56.2",
    "2.28": "4.57.6",
    "2.29": "4.57.6",
}
"""The transformers release each SDK level's NxD Inference is pinned to."""

_TABLES = {release.rpartition(".")[0]: release for release in TRANSFORMERS.values()}
"""The releases whose defaults are known; patch releases of each share them."""

TARGETS = ("inf2", "trn1", "trn1n", "trn2", "trn3")

PYTHONS = ("3.10", "3.11", "3.12")
"""Python versions of the serving host; the hashed text of an enum differs between them."""


@dataclass(frozen=True)
class SdkLevel:
    """One SDK level: its name (``2.24``) and the transformers version that goes with it."""

    name: str
    transformers: str

    def since(self, name: str) -> bool:
        """Whether this level is ``name`` or a later one."""
        return _minor(self.name) >= _minor(name)

    def before(self, name: str) -> bool:
        return not self.since(name)

    @property
    def reads_dtype(self) -> bool:
        """Whether its transformers prefers ``dtype`` to ``torch_dtype``."""
        return _minor(self.transformers) >= 56


@dataclass(frozen=True)
class Host:
    """The serving host, as far as NxD Inference looks at it while it builds a configuration.

    ``logical_nc_config`` is ``NEURON_LOGICAL_NC_CONFIG`` where that is set, ``hash_seed`` is
    ``PYTHONHASHSEED`` where that is fixed.
    """

    target: str
    logical_nc_config: int | None = None
    python: str = "3.11"
    hash_seed: str | None = None

    @property
    def is_first_generation(self) -> bool:
        """NxD's hardware class TRN1: Inferentia2 counts as it."""
        return self.target in ("inf2", "trn1", "trn1n")


def level_of(name: str, transformers: str | None = None) -> SdkLevel:
    """The SDK level called ``name``, with another ``transformers`` than it is pinned to.

    Raises
    ------
    SpecError
        It is not one of :data:`TRANSFORMERS`, or nothing is known of that transformers.
    """
    if name not in TRANSFORMERS:
        known = next((each for each in TRANSFORMERS if name.startswith(f"{each}.")), None)
        hint = f"for SDK {name}, write {known}" if known else f"one of {', '.join(TRANSFORMERS)}"
        raise SpecError(f"unknown SDK level {name!r}", hint=hint)
    level = SdkLevel(name, TRANSFORMERS[name])
    if transformers is None:
        return level
    if not knows_transformers(transformers):
        raise SpecError(
            f"transformers {transformers} is not known",
            hint=f"a release of {', '.join(_TABLES)}, with its patch number",
        )
    if level.since("2.27") and _minor(transformers) < _minor(level.transformers):
        raise SpecError(
            f"NxD Inference of SDK {name} cannot be imported with transformers {transformers}"
        )
    return SdkLevel(name, transformers)


def knows_transformers(release: str) -> bool:
    """Whether its configuration classes are known here."""
    minor, _, patch = release.rpartition(".")
    return minor in _TABLES and patch.isdecimal()


def read_hf_defaults(transformers: str) -> Any:
    """What the configuration classes of a transformers release fill in."""
    return read_table(f"hf-config-defaults-{_TABLES[transformers.rpartition('.')[0]]}")


def level_of_release(version: str) -> SdkLevel | None:
    """The SDK level whose NxD Inference has ``version``, where it is known here.

    Releases are numbered on: 0.4.x came with SDK 2.24, 0.9.x with 2.29. The first, 0.1.x, is 2.21.
    """
    parts = version.split(".")
    if len(parts) < 2 or parts[0] != "0" or not parts[1].isdigit():
        return None
    name = f"2.{20 + int(parts[1])}"
    return SdkLevel(name, TRANSFORMERS[name]) if name in TRANSFORMERS else None


def host_of(level: SdkLevel, target: str, environ: Mapping[str, str], python: str) -> Host:
    """The host from what was asked and the environment, whose variables win as they do there.

    Raises
    ------
    SpecError
        A target that does not exist at this level, or a value NxD Inference cannot read.
    """
    target = environ.get("NEURON_PLATFORM_TARGET_OVERRIDE") or target
    if target not in TARGETS:
        raise SpecError(f"unknown target {target!r}", hint=f"one of {', '.join(TARGETS)}")
    if target == "trn3" and level.before("2.27"):
        raise SpecError(f"SDK {level.name} does not know trn3", hint="trn3 needs SDK 2.27 or later")
    if python not in PYTHONS:
        raise SpecError(f"Python {python!r} is not known", hint=f"one of {', '.join(PYTHONS)}")
    return Host(target, _read_logical_nc_config(level, environ), python)


def _read_logical_nc_config(level: SdkLevel, environ: Mapping[str, str]) -> int | None:
    text = environ.get("NEURON_LOGICAL_NC_CONFIG")
    if text is None:
        return None
    try:
        value = int(text)
    except ValueError:
        raise SpecError(f"NEURON_LOGICAL_NC_CONFIG={text!r} is not a whole number") from None
    # From 2.24 on, -1 is how NxD Inference spells "not set".
    return None if value == -1 and level.since("2.24") else value


@lru_cache
def read_table(name: str) -> Any:
    """A table of this package's data. Callers must not change it."""
    text = (files(__package__) / "data" / f"{name}.json").read_text(encoding="utf-8")
    return json.loads(text)


def _minor(name: str) -> int:
    return int(name.split(".")[1])

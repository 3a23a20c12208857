"""A bill of materials for an artifact: CycloneDX 1.6, JSON.

Format: https://cyclonedx.org/docs/1.6/json/. Everything comes from the manifest, so the same
artifact always gives the same bytes.
"""

from __future__ import annotations

import re
import uuid
from typing import Any
from urllib.parse import quote

from neuron_artifacts.artifact import Manifest

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", re.ASCII)
_PYPI = ("neuronx", "torch", "transformers", "optimum", "libneuronxla", "vllm", "neuron-artifacts")


def make_sbom(manifest: Manifest) -> dict[str, Any]:
    """Toolchain, model and every file, with digests; the artifact is what they make up."""
    model = _model(manifest)
    tools = [_tool(name, value) for name, value in sorted(manifest.toolchain.items())]
    files = [
        {
            "type": "machine-learning-model" if file.role == "weights" else "file",
            "bom-ref": f"file:{file.path}",
            "name": file.path,
            "hashes": [{"alg": "SHA-256", "content": file.sha256}],
            "properties": [
                {"name": "neuron-artifacts:role", "value": file.role},
                {"name": "neuron-artifacts:size", "value": str(file.size)},
            ],
        }
        for file in manifest.files
    ]
    root = f"artifact:{manifest.key}"
    parts = [model, *tools, *files]
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, manifest.key)}",
        "version": 1,
        "metadata": {
            **({"timestamp": manifest.created} if _TIME.fullmatch(manifest.created) else {}),
            "tools": {"components": [{"type": "application", "name": manifest.created_by}]},
            "component": {
                "type": "application",
                "bom-ref": root,
                "name": str(manifest.model.get("name")),
                "version": manifest.key,
            },
        },
        "components": parts,
        "dependencies": [{"ref": root, "dependsOn": [part["bom-ref"] for part in parts]}],
    }


def _model(manifest: Manifest) -> dict[str, Any]:
    name, revision = str(manifest.model.get("name")), manifest.model.get("revision")
    component: dict[str, Any] = {
        "type": "machine-learning-model", "bom-ref": "model", "name": name,
    }  # fmt: skip
    if revision:
        component["version"] = str(revision)
        component["purl"] = f"pkg:huggingface/{quote(name)}@{quote(str(revision), safe='')}"
    return component


def _tool(name: str, value: Any) -> dict[str, Any]:
    version = str(value)
    component = {
        "type": "application", "bom-ref": f"tool:{name}", "name": name, "version": version,
    }  # fmt: skip
    if name.startswith(_PYPI):
        component["purl"] = f"pkg:pypi/{name}@{quote(version)}"
    return component

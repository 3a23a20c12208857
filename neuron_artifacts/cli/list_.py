"""``list``: what a store holds."""

from __future__ import annotations

from pathlib import Path

from neuron_artifacts.cli import _output, _render
from neuron_artifacts.cli._options import AsJson, Store


def list_command(
    *,
    store: Store = ".",
    as_json: AsJson = False,
) -> int:
    """List the artifacts of a store, newest first; broken ones are named as such."""
    from neuron_artifacts.backends.checks import check_artifact
    from neuron_artifacts.preflight import show_bytes
    from neuron_artifacts.store import LocalStore

    root = LocalStore(Path(store))
    verdicts = [check_artifact(path) for path in root.directories()]
    if as_json:
        rows = [
            {
                **(
                    _render.artifact_json(v.path, v.manifest)
                    if v.manifest
                    else {"path": str(v.path)}
                ),
                "status": v.status,
                "problems": list(v.problems),
            }
            for v in verdicts
        ]
        _output.print_json({"store": str(root.root), "artifacts": rows})
        return 0
    if not verdicts:
        _output.talk(f"{root.root} holds no artifacts")
        return 0
    lines = []
    for v in verdicts:
        m = v.manifest
        config = m.neuron_config if m else {}
        lines.append(
            (
                v.path.name[:16], v.status, m.model.get("name") if m else None,
                m.target if m else None, config.get("torch_dtype"), config.get("batch_size"),
                config.get("seq_len"), show_bytes(m.total_bytes) if m else None,
                m.created if m else None,
            )
        )  # fmt: skip
    headings = ("key", "status", "model", "target", "dtype", "batch", "seq", "size", "created")
    _output.write(_output.table(headings, lines))
    return 0

"""``sign`` and ``keygen``: vouch for artifacts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from neuron_artifacts.cli import _output
from neuron_artifacts.cli._options import AsJson, Store
from neuron_artifacts.errors import UsageError


def sign_command(
    artifacts: Annotated[
        list[str],
        typer.Argument(metavar="KEY|DIR…", help="Artifacts by key, its beginning, or directory."),
    ],
    *,
    key: Annotated[
        Path,
        typer.Option("--key", metavar="FILE.key", help="The private key: PEM, also cosign's own."),
    ],
    certificate: Annotated[
        Path | None,
        typer.Option(
            "--certificate",
            metavar="CHAIN.pem",
            help="The key's certificate, then those between it and the root: sign by name.",
        ),
    ] = None,
    bundle: Annotated[
        Path | None,
        typer.Option(
            "--bundle",
            metavar="FILE.json",
            help="Also write the signature as a Sigstore bundle, for cosign; of one artifact.",
        ),
    ] = None,
    store: Store = ".",
    as_json: AsJson = False,
) -> int:
    """Sign artifacts, once every byte has been read and holds.

    The signature lies beside the manifest and travels with the artifact. Whose signatures are
    asked for is said in the policy; see `docs/trust.md`. Nothing is sent anywhere.
    """
    from neuron_artifacts.artifact import verify_artifact
    from neuron_artifacts.store import LocalStore
    from neuron_artifacts.store.names import find_artifact
    from neuron_artifacts.trust.identity import load_chain
    from neuron_artifacts.trust.keys import load_private_key
    from neuron_artifacts.trust.statement import sign_artifact

    if bundle and len(artifacts) > 1:
        raise UsageError("--bundle is for one artifact", hint="sign them one after the other")
    private = load_private_key(key)
    chain = load_chain(certificate, private) if certificate else b""
    root = LocalStore(Path(store))
    paths = [find_artifact(root, name) for name in artifacts]
    for path in paths:
        verdict = verify_artifact(path, "full")
        if verdict.status != "ok":
            raise verdict.error()
        sign_artifact(path, private, chain)
        if bundle:
            _write_bundle(bundle, path, private.public.key_id)
        if not as_json:
            _output.write(f"signed {path} by {private.public}")
    if as_json:
        _output.print_json({
            "key_id": private.public.key_id, "artifacts": [str(path) for path in paths],
        })  # fmt: skip
    return 0


def _write_bundle(target: Path, artifact: Path, key_id: str) -> None:
    from neuron_artifacts._files import write_atomically
    from neuron_artifacts.trust.bundle import make_bundle
    from neuron_artifacts.trust.statement import read_signatures

    found = read_signatures(artifact)
    for signature in found.signatures if found else ():
        if found and signature.key_id == key_id:
            write_atomically(target, make_bundle(found.payload, signature))


def keygen_command(
    prefix: Annotated[Path, typer.Argument(metavar="PREFIX", help="Writes PREFIX.key, PREFIX.pub")],
    *,
    as_json: AsJson = False,
) -> int:
    """Make a key pair to sign with: ECDSA on P-256, in PEM form, as cosign and openssl read it.

    $NEURON_ARTIFACTS_KEY_PASSWORD encrypts the private key.
    """
    from neuron_artifacts.trust.keys import generate_keys, load_public_key

    private, public = generate_keys(prefix)
    key_id = load_public_key(public).key_id
    if as_json:
        _output.print_json({
            "private": str(private), "public": str(public), "key_id": key_id,
        })  # fmt: skip
    else:
        _output.write(f"{private}\n{public}\nsha256:{key_id}")
    return 0

"""The options of ``serve``, some of which ``generate`` has too."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer


class OnInvalid(str, Enum):
    """What to do about an artifact that does not hold."""

    refuse = "refuse"
    recompile = "recompile"


class Engine(str, Enum):
    """Who runs the artifact."""

    bundled = "bundled"
    vllm = "vllm"


class Verify(str, Enum):
    """How far to check before loading."""

    full = "full"
    quick = "quick"
    off = "off"


def _folder(value: str) -> Path:
    """An empty name is a variable that was not set, and not the working directory."""
    if not value.strip():
        raise typer.BadParameter("name a directory, or an artifact's key")
    return Path(value)


Artifacts = Annotated[
    Path | None,
    typer.Option(
        "--artifacts",
        parser=_folder,
        metavar="DIR",
        help="An artifact directory, or its key. (default: $NEURON_COMPILED_ARTIFACTS)",
    ),
]
Threads = Annotated[
    int | None, typer.Option("--threads", min=1, help="Threads of the engine. (default: all cores)")
]
VerifyOption = Annotated[
    Verify,
    typer.Option(
        "--verify",
        help="full hashes what this machine has not hashed yet; quick compares sizes and headers; "
        "off checks nothing.",
    ),
]
EngineOption = Annotated[
    Engine | None,
    typer.Option(
        "--engine",
        help="Our own server, or the toolchain's vLLM. (default: whichever can run it)",
    ),
]
Host = Annotated[str, typer.Option("--host", help="Address to listen on.")]
Port = Annotated[int, typer.Option("--port", min=0, max=65535, help="Port; 0 takes a free one.")]
Uds = Annotated[Path | None, typer.Option("--uds", help="Listen on this Unix socket instead.")]
ServedModelName = Annotated[
    list[str] | None,
    typer.Option("--served-model-name", help="Name in the API; may be given several times."),
]
ApiKey = Annotated[
    list[str] | None,
    typer.Option("--api-key", help="Key to require. (default: $VLLM_API_KEY)"),
]
OnInvalidOption = Annotated[
    OnInvalid, typer.Option("--on-invalid", help="What to do if the artifact does not hold.")
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="With --on-invalid recompile: the model, if the artifact no longer says.",
    ),
]
MaxWaiting = Annotated[
    int, typer.Option("--max-waiting", min=1, help="Requests queued before 429 is answered.")
]
ShutdownTimeout = Annotated[
    float,
    typer.Option("--shutdown-timeout", min=0, help="Seconds to finish accepted requests."),
]
SslCertfile = Annotated[Path | None, typer.Option("--ssl-certfile", help="TLS certificate.")]
SslKeyfile = Annotated[
    Path | None,
    typer.Option("--ssl-keyfile", help="TLS key. Its password: $NEURON_ARTIFACTS_SSL_PASSWORD."),
]
SslCaCerts = Annotated[
    Path | None,
    typer.Option(
        "--ssl-ca-certs", help="Take only clients with a certificate of these authorities."
    ),
]

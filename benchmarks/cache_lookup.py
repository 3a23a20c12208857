"""`cache-lookup` against `optimum-cli neuron cache lookup`, on one local hub: requests and seconds.

The peer is optimum-neuron 0.4.5 in a virtual environment of its own (``make_peer``). Cold means
that neither keeps anything of the hub on disk, warm that each asked the same before; the peer
keeps the model's configuration only. Both start a process each time, with their programs in the
page cache.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import median, row
from tests.neuron_cache.cache_hub import CacheHub
from tests.neuron_cache.caches import REPO, Cache
from tests.neuron_cache.model_configs import LLAMA

MODEL = "org/llama"
ROUNDS = 5
PEER_VARIABLE = "OPTIMUM_NEURON_VENV"
PEER_PACKAGES = (
    "optimum-neuron==0.4.5", "optimum==2.0.0", "transformers==4.57.6", "huggingface-hub==0.36.2",
    "tokenizers==0.22.2", "safetensors", "numpy", "pyyaml", "regex", "packaging", "requests",
    "urllib3", "certifi", "idna", "charset-normalizer", "filelock", "fsspec", "tqdm", "rich",
    "markdown-it-py", "mdurl", "pygments", "typing-extensions",
)  # fmt: skip
"""What the command imports, without torch: it is taken from the reference environment."""


@dataclass(frozen=True)
class Run:
    seconds: float
    requests: int


def run(work: Path) -> Iterator[str]:
    """Lines of a Markdown table."""
    peer = find_peer(work)
    kept = work / "lookup"
    yield row("", "ours", "optimum-cli", "ratio")
    yield row("---", "---", "---", "---")
    for latency in (0.0, 0.05):
        with CacheHub(latency=latency) as hub:
            publish(hub)
            runs = measure(hub, peer, kept)
        for measured in ("requests", "seconds"):
            for state in ("cold", "warm"):
                name = f"{latency * 1000:.0f} ms a request, {state}: {measured}"
                yield _row(name, runs["ours", state], runs["peer", state], measured)


def publish(hub: CacheHub) -> None:
    """29 configurations of one model beside those of four others."""
    cache = Cache()
    for batch in (1, 4, 8, 16, 32, 48, 64):
        for length in (1024, 2048, 4096, 8192):
            cache.add("0.4.5", "llama", MODEL, batch_size=batch, sequence_length=length)
    cache.add("0.4.5", "llama", MODEL, tp_degree=24)
    for model in ("qwen2", "qwen3", "mixtral", "phi3"):
        for batch in (1, 4, 8):
            cache.add("0.4.5", model, f"org/{model}", batch_size=batch)
    hub.commit(REPO, cache.files)
    hub.commit(MODEL, {"config.json": json.dumps(LLAMA).encode()})
    hub.tags[MODEL] = "text-generation"


def measure(hub: CacheHub, peer: Path, kept: Path) -> dict[tuple[str, str], list[Run]]:
    """Both in turn, cold and then warm, after one round that is not counted."""
    commands = {
        "ours": [sys.executable, "-m", "neuron_artifacts", "cache-lookup", MODEL, "--json",
                 "--backend", "optimum", "--cache-repo", REPO],
        "peer": [str(peer), "neuron", "cache", "lookup", MODEL, "--repo_id", REPO],
    }  # fmt: skip
    runs: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for _ in range(ROUNDS + 1):
        shutil.rmtree(kept, ignore_errors=True)
        for state in ("cold", "warm"):
            for who, command in commands.items():
                runs[who, state].append(_run(hub, command, kept))
    return {name: counted[1:] for name, counted in runs.items()}


def find_peer(work: Path) -> Path:
    """The peer's command: below ``OPTIMUM_NEURON_VENV``, else installed below ``work``."""
    environment = Path(os.environ.get(PEER_VARIABLE) or work / "optimum-neuron")
    command = environment / "bin" / "optimum-cli"
    if not command.exists():
        make_peer(environment)
    return command


def make_peer(environment: Path) -> None:
    """Install the peer beside the torch of this environment, without its other dependencies."""
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    python = environment / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", "--no-deps"]
    subprocess.run([*install, *PEER_PACKAGES], check=True)
    [packages] = environment.glob("lib/python3*/site-packages")
    here = [entry for entry in sys.path if entry.endswith("site-packages")]
    (packages / "reference.pth").write_text("\n".join(here) + "\n")


def _run(hub: CacheHub, command: Sequence[str], kept: Path) -> Run:
    environ = {
        **os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0",
        "HF_HOME": str(kept / "huggingface"), "NEURON_ARTIFACTS_CACHE": str(kept / "ours"),
    }  # fmt: skip
    environ.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed program has its bytecode
    hub.requests.clear()
    began = time.monotonic()
    subprocess.run(
        command, check=True, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    return Run(time.monotonic() - began, len(hub.requests))


def _row(name: str, ours: Sequence[Run], theirs: Sequence[Run], measured: str) -> str:
    mine, other = (median([getattr(r, measured) for r in runs]) for runs in (ours, theirs))
    if measured == "requests":
        return row(name, f"{mine:.0f}", f"{other:.0f}", f"{mine / other:.2f} of them")
    return row(name, f"{mine:.2f}", f"{other:.2f}", f"{other / mine:.1f} times faster")

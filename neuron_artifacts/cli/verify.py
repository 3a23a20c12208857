"""``verify``: read artifacts to the last byte."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neuron_artifacts.cli import _output
from neuron_artifacts.cli._options import AsJson, Store
from neuron_artifacts.cli._progress import show_progress
from neuron_artifacts.errors import ExitCode, UsageError
from neuron_artifacts.events import BytesMoved, Observer

if TYPE_CHECKING:
    from neuron_artifacts.store.scrub import ScrubResult
    from neuron_artifacts.trust.keys import Voucher


def verify_command(
    artifacts: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY|DIR…]", help="Artifacts by key, its beginning, or directory."),
    ] = None,
    *,
    every: Annotated[bool, typer.Option("--all", help="Every artifact of the store.")] = False,
    store: Store = ".",
    jobs: Annotated[
        int | None, typer.Option("--jobs", min=1, help="Artifacts at once. (default: all cores)")
    ] = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Forget what an unfinished run has verified.")
    ] = False,
    key: Annotated[
        Path | None,
        typer.Option("--key", metavar="FILE.pub", help="Also require a signature by this key."),
    ] = None,
    identity: Annotated[
        str | None,
        typer.Option(
            "--identity",
            metavar="NAME",
            help="Also require a signature by whom a certificate names: an e-mail address or URI.",
        ),
    ] = None,
    issuer: Annotated[
        str | None,
        typer.Option(
            "--issuer",
            metavar="URL",
            help="With --identity: who logged them in, for certificates that say.",
        ),
    ] = None,
    trusted_root: Annotated[
        Path | None,
        typer.Option(
            "--trusted-root",
            metavar="CA.pem",
            help="With --identity: the authorities whose certificates count.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Read artifacts to the last byte and compare each with its manifest.

    Signatures that the policy, --key or --identity asks for are checked, and what is said about
    the build is compared with the artifact. Nothing remembered is trusted. A run over a whole store
    that is interrupted goes on where it stopped. The exit code is the worst verdict's.
    """
    from neuron_artifacts.store import LocalStore
    from neuron_artifacts.store.names import find_artifact
    from neuron_artifacts.store.scrub import checkpoint_of

    if bool(artifacts) == every:
        raise UsageError("name artifacts, or give --all for every one of the store")
    root = LocalStore(Path(store))
    judge = _Judge(_asked(key, identity, issuer, trusted_root))
    paths = root.directories() if every else [find_artifact(root, name) for name in artifacts or ()]
    checkpoint = checkpoint_of(root.root)
    if restart:
        checkpoint.unlink(missing_ok=True)
    jobs = jobs or len(os.sched_getaffinity(0))
    judged, read, seconds = _verify(paths, jobs, checkpoint, judge, quiet=as_json)
    bad = [found.result for found in judged if found.result.status != "ok"]
    if as_json:
        _output.print_json(_json(judged, read, seconds))
    speed = read / 1e6 / max(seconds, 1e-9)
    _output.talk(
        f"{len(judged)} verified, {len(bad)} of them bad; read {read / 1e6:.0f} MB in "
        f"{seconds:.1f} s ({speed:.0f} MB/s)"
    )
    return max((_exit_code(result) for result in bad), default=0)


def _verify(
    paths: Sequence[Path], jobs: int, checkpoint: Path, judge: _Judge, *, quiet: bool
) -> tuple[list[_Judged], int, float]:
    """Every verdict, shown as it comes; the bytes read and the seconds taken."""
    from neuron_artifacts.store.scrub import scrub

    began = time.monotonic()
    judged = []
    with show_progress() as observe:
        rate = _Rate(observe)
        for result in scrub(paths, jobs=jobs, checkpoint=checkpoint, on_bytes=rate.add):
            judged.append(judge(result))
            if not quiet:
                _print_result(judged[-1])
    return judged, rate.done, time.monotonic() - began


def _asked(
    key: Path | None, identity: str | None, issuer: str | None, trusted_root: Path | None
) -> tuple[Voucher, ...]:
    """Whom the command line asks for: any one of them."""
    if (identity is None) != (trusted_root is None) or (issuer and not identity):
        raise UsageError(
            "--identity goes with --trusted-root, and --issuer with both",
            hint="an identity is worth what the authority is that vouches for it",
        )
    from neuron_artifacts.trust.identity import load_identity
    from neuron_artifacts.trust.keys import load_public_key

    asked: list[Voucher] = [load_public_key(key)] if key else []
    if identity is not None and trusted_root is not None:
        asked.append(load_identity(identity, issuer, trusted_root))
    return tuple(asked)


class _Judge:
    """Adds to a sound artifact's verdict whether it is trusted, and by whom."""

    def __init__(self, asked: tuple[Voucher, ...]) -> None:
        from neuron_artifacts.trust.policy import load_policy

        self._asked = asked
        self._policy = load_policy()

    def __call__(self, result: ScrubResult) -> _Judged:
        from neuron_artifacts.trust.judgement import judge_artifact

        if result.status != "ok":
            return _Judged(result)
        required = (self._asked, self._policy.required_at(result.path))
        found = judge_artifact(result.path, required)
        if found.status != "ok":
            return _Judged(replace(result, status=found.status, problems=found.problems))
        return _Judged(result, found.signed_by, found.builder)


@dataclass(frozen=True)
class _Judged:
    result: ScrubResult
    signed_by: str | None = None
    builder: str | None = None


def _exit_code(result: ScrubResult) -> int:
    from neuron_artifacts.artifact.verify import EXIT_CODES

    codes = {str(status): code for status, code in EXIT_CODES.items()}
    return int({**codes, "untrusted": ExitCode.UNTRUSTED}[result.status])


class _Rate:
    """Adds up bytes read by several threads."""

    def __init__(self, observe: Observer) -> None:
        self.done = 0
        self._observe, self._lock = observe, threading.Lock()

    def add(self, count: int) -> None:
        with self._lock:
            self.done += count
            self._observe(BytesMoved("verifying", self.done, 0))


def _print_result(judged: _Judged) -> None:
    result = judged.result
    earlier = " (by the unfinished run before)" if result.resumed else ""
    signed = (f"signed by {judged.signed_by}",) if judged.signed_by else ()
    for line in (
        f"{result.status}  {result.path}{earlier}",
        *map("    {}".format, (*signed, *result.problems)),
    ):
        _output.write(_output.printable(line, one_line=True))


def _json(judged: list[_Judged], read: int, seconds: float) -> dict[str, Any]:
    rows = [
        {
            "path": str(r.path), "status": r.status, "problems": list(r.problems),
            "bytes": r.size, "resumed": r.resumed, "signed_by": j.signed_by, "builder": j.builder,
        }
        for j, r in ((j, j.result) for j in judged)
    ]  # fmt: skip
    return {"artifacts": rows, "bytes_read": read, "seconds": round(seconds, 3)}

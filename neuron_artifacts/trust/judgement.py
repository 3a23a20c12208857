"""What is said about an artifact beside its bytes, judged at once: who signed it, who built it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from neuron_artifacts.artifact import read_manifest
from neuron_artifacts.errors import CorruptError, StoreError, UntrustedError
from neuron_artifacts.trust.keys import Voucher
from neuron_artifacts.trust.policy import require_trust
from neuron_artifacts.trust.provenance import check_provenance, read_provenance
from neuron_artifacts.trust.statement import check_signed_statement, read_signatures


@dataclass(frozen=True)
class Judgement:
    """``signed_by`` is whoever of those asked for has signed; ``builder``, what provenance says."""

    status: Literal["ok", "untrusted", "corrupt", "unreadable"]
    problems: tuple[str, ...] = ()
    signed_by: str | None = None
    builder: str | None = None


def judge_artifact(directory: Path, required: Iterable[tuple[Voucher, ...]]) -> Judgement:
    """Judge an artifact whose files hold; of each of ``required`` one must have signed.

    Never raises for what it finds.
    """
    try:
        signers = [require_trust(directory, vouchers) for vouchers in required]
        provenance, found = read_provenance(directory), read_signatures(directory)
        problems = check_provenance(provenance, read_manifest(directory)) if provenance else []
        problems += check_signed_statement(found, directory) if found else []
    except UntrustedError as error:
        return Judgement("untrusted", (error.message,))
    except CorruptError as error:
        return Judgement("corrupt", (error.message,))
    except StoreError as error:
        return Judgement("unreadable", (error.message,))
    if problems:
        return Judgement("corrupt", tuple(problems))
    names = " and ".join(dict.fromkeys(str(signer) for signer in signers if signer))
    builder = provenance["runDetails"]["builder"]["id"] if provenance else None
    return Judgement("ok", (), names or None, builder)

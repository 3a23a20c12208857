"""Whose signature an artifact needs, by where it comes from.

A YAML file, ``$NEURON_ARTIFACTS_POLICY`` or ``policy.yaml`` in the configuration directory::

    keys:
      release: /etc/neuron/release.pub
    identities:
      ci: {subject: ci@example.com, issuer: "https://login.example.com", trusted_root: ca.pem}
    rules:                       # the first that matches decides
      - stores: ["/srv/shared/*", "prod"]
        require: [release, ci]   # either of them
      - stores: ["*"]
        require: []

``stores`` are shell patterns over the directory an artifact lies in, or a remote store's name.
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuron_artifacts._files import MAX_YAML_BYTES, load_yaml, read_regular, shorten
from neuron_artifacts.errors import UntrustedError, UsageError
from neuron_artifacts.trust.identity import Identity, load_identity
from neuron_artifacts.trust.keys import Signature, Voucher, load_public_key
from neuron_artifacts.trust.statement import Signatures, read_signatures

POLICY_VARIABLE = "NEURON_ARTIFACTS_POLICY"


@dataclass(frozen=True)
class Rule:
    """For stores that match one of the patterns, one of these must have signed."""

    stores: tuple[str, ...]
    vouchers: tuple[Voucher, ...]

    def matches(self, store: str) -> bool:
        return any(fnmatch.fnmatchcase(store, pattern) for pattern in self.stores)


@dataclass(frozen=True)
class Policy:
    """The rules, in order; a store that none matches needs no signature."""

    rules: tuple[Rule, ...] = ()

    def required(self, *stores: str) -> tuple[Voucher, ...]:
        """Of whom one must have signed what comes from ``stores``."""
        for rule in self.rules:
            if any(rule.matches(store) for store in stores):
                return rule.vouchers
        return ()

    def required_at(self, directory: Path, *names: str) -> tuple[Voucher, ...]:
        """The same of an artifact at ``directory``, which may come from stores of other names.

        No link leads around a rule: what the place itself needs counts, and if that is nothing,
        what the place needs by the name it was given.
        """
        named = os.path.normpath(directory.absolute())
        return self.required(*names, os.path.realpath(directory)) or self.required(*names, named)


def load_policy(environ: Mapping[str, str] | None = None) -> Policy:
    """The policy of this user, or an empty one.

    Raises
    ------
    UsageError
        It cannot be read, or a key it names cannot, or anybody may write it. A policy that is
        broken trusts nobody.
    """
    environ = os.environ if environ is None else environ
    named = environ.get(POLICY_VARIABLE)
    path = Path(named) if named else _default_path(environ)
    try:
        _refuse_open(path)
        body = load_yaml(read_regular(path, MAX_YAML_BYTES))
    except OSError as error:
        is_absent = isinstance(error, (FileNotFoundError, NotADirectoryError))
        if not named and is_absent and not os.path.lexists(path):
            return Policy()
        raise UsageError(f"the policy {path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UsageError(f"the policy {path} is not valid YAML: {error}") from None
    return _parse(body, path)


def require_trust(directory: Path, vouchers: tuple[Voucher, ...]) -> Voucher | None:
    """Who among ``vouchers`` signed an artifact; ``None`` where nobody is required.

    Raises
    ------
    UntrustedError
        None of them did; the message names who was expected.
    CorruptError
        The signatures are damaged.
    """
    if not vouchers:
        return None
    found = read_signatures(directory)
    for voucher in vouchers if found else ():
        if found and found.signed_by(voucher):
            return voucher
    expected = " or ".join(map(str, vouchers))
    told = ", ".join(_describe(s, vouchers, found) for s in found.signatures) if found else ""
    told = told or "nobody"
    raise UntrustedError(
        f"{directory} must be signed by {expected}, and is signed by {told}",
        hint="have it signed with `neuron-artifacts sign`, or change the policy",
    )


def _describe(signature: Signature, vouchers: tuple[Voucher, ...], found: Signatures) -> str:
    """A signature that does not do, and what is wrong with its certificate."""
    doubts = (
        voucher.doubt(signature, found.signed_bytes)
        for voucher in vouchers
        if isinstance(voucher, Identity) and signature.chain
    )
    told = "".join(f", {doubt}" for doubt in dict.fromkeys(filter(None, doubts)))
    return f"sha256:{signature.key_id[:16]}{told}"


def _default_path(environ: Mapping[str, str]) -> Path:
    base = environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(base) / "neuron-artifacts" / "policy.yaml"


def _parse(body: Any, path: Path) -> Policy:
    if not isinstance(body, dict) or set(body) - {"keys", "identities", "rules"}:
        raise UsageError(
            f"the policy {path} must hold `keys`, `identities` and `rules`, and nothing else"
        )
    keys, identities = body.get("keys") or {}, body.get("identities") or {}
    rows = body.get("rules") or []
    if not all(isinstance(part, dict) for part in (keys, identities)) or not isinstance(rows, list):
        raise UsageError(
            f"the policy {path}: `keys` and `identities` go by name, `rules` is a list"
        )
    if both := [name for name in keys if name in identities]:
        raise UsageError(f"the policy {path} names {shorten(both[0])} twice")
    vouchers: dict[str, Voucher] = {
        **{name: _key(name, file, path) for name, file in keys.items()},
        **{name: _identity(name, fields, path) for name, fields in identities.items()},
    }
    return Policy(tuple(_rule(row, vouchers, path) for row in rows))


def _refuse_open(path: Path) -> None:
    if path.stat().st_mode & 0o002:
        raise UsageError(f"anybody may write {path}, so it says nothing", hint=f"chmod o-w {path}")


def _key(name: Any, file: Any, path: Path) -> Voucher:
    if not (_is_text(name) and _is_text(file)):
        raise UsageError(f"the policy {path}: {shorten(name)} names no key and no file")
    with suppress(OSError):  # whoever loads it says so
        _refuse_open(path.parent / file)
    return load_public_key(path.parent / file, name)


def _identity(name: Any, fields: Any, path: Path) -> Voucher:
    wanted = {"subject", "trusted_root"}
    if (
        not isinstance(fields, dict)
        or not wanted <= set(fields) <= {*wanted, "issuer"}
        or not all(map(_is_text, (name, *fields.values())))
    ):
        raise UsageError(
            f"the policy {path}: {shorten(name)} needs `subject` and `trusted_root`, and may have "
            "`issuer`; all are text"
        )
    roots = path.parent / fields["trusted_root"]
    with suppress(OSError):
        _refuse_open(roots)
    return load_identity(fields["subject"], fields.get("issuer"), roots, name)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != "" and value.isprintable()


def _rule(row: Any, vouchers: Mapping[str, Voucher], path: Path) -> Rule:
    if not isinstance(row, dict) or set(row) != {"stores", "require"}:
        raise UsageError(f"the policy {path}: each rule has `stores` and `require`")
    stores, wanted = row["stores"], row["require"]
    for value in (stores, wanted):
        if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
            raise UsageError(f"the policy {path}: `stores` and `require` are lists of text")
    unknown = [name for name in wanted if name not in vouchers]
    if unknown:
        raise UsageError(f"the policy {path} requires {shorten(unknown[0])}, whom it does not name")
    return Rule(tuple(stores), tuple(vouchers[name] for name in wanted))

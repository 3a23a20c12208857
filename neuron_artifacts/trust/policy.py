"""Whose signature an artifact needs, by where it comes from.

A YAML file, ``$NEURON_ARTIFACTS_POLICY`` or ``policy.yaml`` in the configuration directory::

    keys:
      release: /etc/neuron/release.pub
    rules:                       # the first that matches decides
      - stores: ["/srv/shared/*", "prod"]
        require: [release]
      - stores: ["*"]
        require: []

``stores`` are shell patterns over the directory an artifact lies in, or a remote store's name.
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuron_artifacts._files import MAX_YAML_BYTES, load_yaml, read_regular, shorten
from neuron_artifacts.errors import UntrustedError, UsageError
from neuron_artifacts.trust.keys import PublicKey, load_public_key
from neuron_artifacts.trust.statement import read_signatures

POLICY_VARIABLE = "NEURON_ARTIFACTS_POLICY"


@dataclass(frozen=True)
class Rule:
    """For stores that match one of the patterns, one of these keys must have signed."""

    stores: tuple[str, ...]
    keys: tuple[PublicKey, ...]

    def matches(self, store: str) -> bool:
        return any(fnmatch.fnmatchcase(store, pattern) for pattern in self.stores)


@dataclass(frozen=True)
class Policy:
    """The rules, in order; a store that none matches needs no signature."""

    rules: tuple[Rule, ...] = ()

    def required(self, *stores: str) -> tuple[PublicKey, ...]:
        """The keys of which one must have signed what comes from ``stores``."""
        for rule in self.rules:
            if any(rule.matches(store) for store in stores):
                return rule.keys
        return ()


def load_policy(environ: Mapping[str, str] | None = None) -> Policy:
    """The policy of this user, or an empty one.

    Raises
    ------
    UsageError
        It cannot be read, or a key it names cannot. A policy that is broken trusts nobody.
    """
    environ = os.environ if environ is None else environ
    named = environ.get(POLICY_VARIABLE)
    path = Path(named) if named else _default_path(environ)
    if not named and not path.exists():
        return Policy()
    try:
        body = load_yaml(read_regular(path, MAX_YAML_BYTES))
    except OSError as error:
        raise UsageError(f"the policy {path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UsageError(f"the policy {path} is not valid YAML: {error}") from None
    return _parse(body, path)


def require_trust(directory: Path, keys: tuple[PublicKey, ...]) -> PublicKey | None:
    """The key among ``keys`` that signed an artifact; ``None`` where none is required.

    Raises
    ------
    UntrustedError
        None of them did; the message names who was expected.
    CorruptError
        The signatures are damaged.
    """
    if not keys:
        return None
    found = read_signatures(directory)
    for key in keys if found else ():
        if found and found.signed_by(key):
            return key
    expected = " or ".join(map(str, keys))
    told = ", ".join(f"sha256:{key_id[:16]}" for key_id in found.key_ids) if found else "nobody"
    raise UntrustedError(
        f"{directory} must be signed by {expected}, and is signed by {told}",
        hint="have it signed with `neuron-artifacts sign`, or change the policy",
    )


def _default_path(environ: Mapping[str, str]) -> Path:
    base = environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(base) / "neuron-artifacts" / "policy.yaml"


def _parse(body: Any, path: Path) -> Policy:
    if not isinstance(body, dict) or set(body) - {"keys", "rules"}:
        raise UsageError(f"the policy {path} must hold `keys` and `rules`, and nothing else")
    named, rows = body.get("keys") or {}, body.get("rules") or []
    if not isinstance(named, dict) or not isinstance(rows, list):
        raise UsageError(f"the policy {path}: `keys` maps names to files, `rules` is a list")
    for text in (*named, *named.values()):
        if not isinstance(text, str) or not text.isprintable():
            raise UsageError(f"the policy {path}: {shorten(text)} names no key and no file")
    keys = {name: load_public_key(path.parent / file, name) for name, file in named.items()}
    return Policy(tuple(_rule(row, keys, path) for row in rows))


def _rule(row: Any, keys: Mapping[str, PublicKey], path: Path) -> Rule:
    if not isinstance(row, dict) or set(row) != {"stores", "require"}:
        raise UsageError(f"the policy {path}: each rule has `stores` and `require`")
    stores, wanted = row["stores"], row["require"]
    for value in (stores, wanted):
        if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
            raise UsageError(f"the policy {path}: `stores` and `require` are lists of text")
    unknown = [name for name in wanted if name not in keys]
    if unknown:
        raise UsageError(
            f"the policy {path} requires {shorten(unknown[0])}, which `keys` does not name"
        )
    return Rule(tuple(stores), tuple(keys[name] for name in wanted))

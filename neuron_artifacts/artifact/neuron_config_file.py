"""``neuron_config.json`` as the libraries write it: not strict JSON, and named by its own digest.

NxD Inference writes ``Infinity`` into it, and vLLM names the directory by the MD5 of the text
without its last newline (``InferenceConfig.to_json_file`` in ``models/config.py``).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuron_artifacts._files import read_regular
from neuron_artifacts.errors import CorruptError, IncompleteError

CONFIG_FILE = "neuron_config.json"
MAX_BYTES = 16 << 20

_MD5 = re.compile(r"[0-9a-f]{32}")
_REWRITTEN = (b'"draft_model_path": "local-models/', b'"draft_model_path": "')


@dataclass(frozen=True)
class NeuronConfigFile:
    """The content, and the MD5s that the directory may have been named by.

    vLLM's forks rewrite the path of a draft model from the hub after they have hashed it, so that
    there may be two; the first is the digest of what lies there.
    """

    content: Mapping[str, Any]
    md5s: tuple[str, ...]

    @property
    def md5(self) -> str:
        return self.md5s[0]

    def agrees_with(self, name: str) -> bool:
        """Whether ``name`` is no MD5, or that of this text."""
        return not is_md5(name) or name in self.md5s


def read_neuron_config(path: Path) -> NeuronConfigFile:
    """Read the file, infinities and all.

    Raises
    ------
    IncompleteError
        There is none.
    CorruptError
        It is no JSON object, or absurdly large.
    """
    try:
        data = read_regular(path, MAX_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        raise IncompleteError("is missing") from None
    except OSError as error:
        raise CorruptError(f"cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise CorruptError(f"is {error}") from None
    try:
        content = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise CorruptError(f"is no JSON ({error})") from None
    if not isinstance(content, dict):
        raise CorruptError("is no JSON object")
    return NeuronConfigFile(content, _md5s(data.removesuffix(b"\n")))


def is_md5(name: str) -> bool:
    """Whether a directory's name is the kind vLLM gives."""
    return _MD5.fullmatch(name) is not None


def _md5s(text: bytes) -> tuple[str, ...]:
    spellings = dict.fromkeys((text, text.replace(*_REWRITTEN)))
    return tuple(hashlib.md5(s, usedforsecurity=False).hexdigest() for s in spellings)

"""What in a ``tokenizer.json`` can fill the memory, looked for before it is used.

A few lines can double a text sixty times over: in the normalizer, which every prompt passes, or
in the decoder, which every answer does. And a ``Precompiled`` normalizer states how large its
table is, which the library believes: it ends the process where there is not that much memory.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import tokenizers

MAX_GROWTH = 64
"""Characters that may become of one; known tokenizers replace one by one, or several by one."""

MAX_PREPENDED = 1024


_ESCAPED_LETTER = re.compile(rb"\\u00[4-7]")  # which no writer escapes, but every reader reads


def has_sound_tables(data: bytes) -> bool:
    """Whether each precompiled table is as long as it says: a count of bytes, then these.

    Raises
    ------
    ValueError
        Not JSON, or a table that is not base64.
    """
    if b"charsmap" not in data and not _ESCAPED_LETTER.search(data):
        return True
    normalizer = json.loads(data).get("normalizer")
    parts = _steps(normalizer) if isinstance(normalizer, dict) else ()
    texts = [part.get("precompiled_charsmap") for part in parts if isinstance(part, dict)]
    tables = [base64.b64decode(text) for text in texts if isinstance(text, str)]
    return all(int.from_bytes(table[:4], "little") <= len(table) - 4 for table in tables)


def grows_too_much(backend: tokenizers.Tokenizer) -> bool:
    """Whether the normalizer or the decoder can make a text absurdly longer."""
    parts = filter(None, (backend.normalizer, backend.decoder))
    return any(growth(json.loads(part.__getstate__())) > MAX_GROWTH for part in parts)


def growth(step: Mapping[str, Any]) -> float:
    """The most characters that become of one; of a part as ``tokenizer.json`` spells it."""
    factor = 1.0
    for part in _steps(step):
        if part.get("type") == "Replace":
            pattern, content = part["pattern"].get("String"), part["content"]
            # A regular expression may match nothing at all, before and after each character.
            factor *= max(1, len(content) / len(pattern) if pattern else 1 + 2 * len(content))
        elif part.get("type") == "Prepend" and len(part["prepend"]) > MAX_PREPENDED:
            return float("inf")
    return factor


def _steps(step: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    waiting = [step]
    while waiting:
        part = waiting.pop()
        inner = part.get("normalizers", part.get("decoders")) if isinstance(part, dict) else None
        if isinstance(inner, list):
            waiting += inner
        else:
            yield part

"""Write, or check, ``tests/data/tokenizers/expected.json`` with transformers.

Run from the repository root in an environment with the ``reference`` extra::

    python -m tests.reference.make_tokenizer_goldens            # rewrite
    python -m tests.reference.make_tokenizer_goldens --check    # ask again and compare
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import transformers

from tests.reference.tokenizer_cases import CONFIGS, EXPECTED, TEXTS
from tests.runtime.toy_tokenizers import KINDS, save, write_json


def describe(folder: Path) -> dict[str, Any]:
    """What ``AutoTokenizer`` makes of a folder, text by text."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    texts = []
    for text in TEXTS:
        ids = tokenizer.encode(text)
        texts.append(
            {
                "ids": ids,
                "bare": tokenizer.encode(text, add_special_tokens=False),
                "decoded": tokenizer.decode(ids, skip_special_tokens=False),
                "skipped": tokenizer.decode(ids, skip_special_tokens=True),
            }
        )
    special = tokenizer.special_tokens_map
    return {"size": len(tokenizer), "special_tokens": special, "texts": texts}


def describe_all() -> dict[str, Any]:
    described: dict[str, Any] = {"transformers": transformers.__version__}
    for kind, make in KINDS.items():
        described[kind] = {}
        for name, config in CONFIGS.items():
            with tempfile.TemporaryDirectory() as scratch:
                folder = save(Path(scratch), make(), **config)
                write_json(folder / "config.json", {"model_type": "llama"})
                described[kind][name] = describe(folder)
    return described


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true")
    described = describe_all()
    if not parser.parse_args().check:
        EXPECTED.parent.mkdir(exist_ok=True)
        EXPECTED.write_text(json.dumps(described, sort_keys=True) + "\n", encoding="utf-8")
        return 0
    committed = json.loads(EXPECTED.read_text(encoding="utf-8"))
    different = [
        f"{kind}: {name}"
        for kind in KINDS
        for name in CONFIGS
        if committed.get(kind, {}).get(name) != described[kind][name]
    ]
    print("\n".join(different) or "all as committed")
    return bool(different)


if __name__ == "__main__":
    sys.exit(main())

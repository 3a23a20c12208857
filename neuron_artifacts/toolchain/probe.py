"""Runs in a foreign interpreter (Python 3.8 or later): which of these packages does it have?

Arguments: a token, then distribution names. Prints one line, the token followed by JSON; other
lines come from whatever the interpreter runs at start-up. Reads metadata and imports nothing.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

PLACEHOLDER = "WRONG PACKAGE"  # what METADATA says in AWS's name reservations on PyPI


def main(token: str, names: list[str]) -> None:
    packages: dict[str, str] = {}
    placeholders: dict[str, str] = {}
    for name in names:
        try:
            found = distribution(name)
            metadata = found.read_text("METADATA") or found.read_text("PKG-INFO") or ""
            version = found.version
        except (PackageNotFoundError, OSError, ValueError, KeyError):
            continue
        if isinstance(version, str) and version:
            (placeholders if PLACEHOLDER in metadata else packages)[name] = version
    report = {
        "python": ".".join(map(str, sys.version_info[:2])),
        "executable": sys.executable,
        "packages": packages,
        "placeholders": placeholders,
        "path": [entry for entry in sys.path if Path(entry).is_dir()],
    }
    sys.stdout.write("\n" + token + json.dumps(report) + "\n")


main(sys.argv[1], sys.argv[2:])

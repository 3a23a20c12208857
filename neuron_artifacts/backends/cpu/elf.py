"""Enough of ELF to refuse a file before the system's loader maps it.

The loader trusts headers: a shared object cut short kills the process with SIGBUS. Layout from
the System V ABI, chapter 4 and 5 (https://refspecs.linuxfoundation.org/elf/gabi4+/contents.html).
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

from neuron_artifacts.errors import CorruptError

MACHINES = {62: "x86_64", 183: "aarch64"}

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_IDENT = b"\x7fELF\x02\x01"  # 64 bit, little-endian
_SHARED_OBJECT, _LOADED = 3, 1


def read_machine(path: Path) -> str:
    """Processor a shared object is for, in the spelling of ``platform.machine()``.

    Raises
    ------
    CorruptError
        It is no little-endian 64-bit shared object, or shorter than its headers say.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            header = _HEADER.unpack(file.read(_HEADER.size))
            ident, kind, machine, _, _, segments_at, sections_at = header[:7]
            segment_size, segment_count, section_size, section_count = header[9:13]
            file.seek(segments_at)
            table = file.read(segment_size * segment_count)
            segments = [_SEGMENT.unpack_from(table, i * segment_size) for i in range(segment_count)]
    except OSError as error:
        raise CorruptError(f"{path} cannot be read: {error.strerror}") from error
    except (struct.error, ValueError, OverflowError) as error:
        raise CorruptError(f"{path} is no shared object, or cut short") from error
    if not ident.startswith(_IDENT) or kind != _SHARED_OBJECT:
        raise CorruptError(f"{path} is no shared object")
    ends = [offset + length for kind, _, offset, _, _, length, *_ in segments if kind == _LOADED]
    end = max([*ends, sections_at + section_size * section_count])
    if not ends or end > size:
        raise CorruptError(f"{path} is cut short: {size} bytes, its headers say {end}")
    return MACHINES.get(machine, f"ELF machine {machine}")

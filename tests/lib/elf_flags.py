#!/usr/bin/env python3
"""Copies a 64-bit little-endian ELF library without the DF_1_NODELETE flag of its dynamic
section, to show what would happen had it been linked without `-z nodelete`:

    elf_flags.py --clear-nodelete FROM TO
"""

import struct
import sys

PT_DYNAMIC, DT_NULL, DT_FLAGS_1, DF_1_NODELETE = 2, 0, 0x6FFFFFFB, 0x8


def clear_nodelete(image):
    assert image[:6] == b"\x7fELF\x02\x01", "not a 64-bit little-endian ELF file"
    headers_at, = struct.unpack_from("<Q", image, 0x20)
    size, count = struct.unpack_from("<HH", image, 0x36)
    for index in range(count):
        kind, _, offset, _, _, length = struct.unpack_from("<IIQQQQ", image, headers_at + index * size)
        if kind != PT_DYNAMIC:
            continue
        for at in range(offset, offset + length, 16):
            tag, value = struct.unpack_from("<QQ", image, at)
            if tag == DT_FLAGS_1 and value & DF_1_NODELETE:
                struct.pack_into("<QQ", image, at, tag, value & ~DF_1_NODELETE)
                return
            if tag == DT_NULL:
                break
    sys.exit("the flag is not there to be cleared")


if __name__ == "__main__":
    _, _, source, copy = sys.argv
    with open(source, "rb") as file:
        content = bytearray(file.read())
    clear_nodelete(content)
    with open(copy, "wb") as file:
        file.write(content)

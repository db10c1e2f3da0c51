#!/usr/bin/env python3
"""Checks how the files of src import each other.

    imports.py circles   files that import each other in a circle
    imports.py upward    imports from a room that stands higher in ROWS, or beside
    imports.py names     public types that have the same name in several files

A room is a folder or a file of src or src/engine. A program of src/bin is a crate of its own, which
imports from the library by the library's name. Prints each violation on a line of its own and
exits with 1 if there is one. Tests are left out: they may import from everywhere.
"""

import re
import sys
from pathlib import Path

SRC = Path("src")

# The rooms, from the lowest row to the highest. A room may import from itself and from rooms
# in the rows before its own, but not from another room of its own row.
ROWS = [
    ["sys"],
    ["engine::fields", "engine::target", "engine::request"],
    ["engine::tls_details"],
    ["engine::config"],
    ["engine::log"],
    ["engine::probe"],
    ["engine::verdicts"],
    ["engine::state_file", "engine::routing"],
    ["engine::active"],
    ["engine::cluster", "engine::metrics", "engine::page"],
    ["engine::scheduler"],
    ["engine::process"],
    ["abi"],
    ["lua"],
    ["bin"],
]

LIBRARY = "nauthilus_backend"

USE = re.compile(r"^\s*(?:pub(?:\([^)]*\))?\s+)?use\s+([^;]+);", re.M)
PATH = re.compile(r"\b(?:crate|super|self|nauthilus_backend)(?:::\w+)+")
TYPE = re.compile(r"^\s*pub(?:\([^)]*\))?\s+(?:struct|enum|trait|union|type)\s+(\w+)", re.M)


def without_tests_and_comments(text):
    """The text without test modules, comments and the contents of strings."""
    text = re.sub(r"#\[cfg\(test\)\]\s*(?:pub(?:\([^)]*\))? )?mod \w+ \{.*?^\}", "", text, flags=re.S | re.M)
    text = re.sub(r"#\[cfg\(test\)\]\s*(?:pub(?:\([^)]*\))? )?(?:mod \w+|use [^;]+);", "", text)
    text = re.sub(r"//[^\n]*", "", text)
    return re.sub(r'"(?:[^"\\]|\\.)*"', '""', text)


def module_of(path):
    parts = list(path.relative_to(SRC).with_suffix("").parts)
    if parts[-1] in ("mod", "lib", "main"):
        parts.pop()
    return tuple(parts)


def flatten(tree, prefix=()):
    """The paths of one `use` tree: `a::{b, c::d as e}` gives a::b and a::c::d."""
    tree = tree.strip()
    brace = tree.find("{")
    if brace < 0:
        name = re.sub(r"\s+as\s+\w+$", "", tree)
        yield prefix + tuple(part.strip() for part in name.split("::") if part.strip())
        return
    head = tuple(part.strip() for part in tree[:brace].split("::") if part.strip())
    inner, depth, start = tree[brace + 1 : tree.rfind("}")], 0, 0
    for at, char in enumerate(inner + ","):
        depth += {"{": 1, "}": -1}.get(char, 0)
        if char == "," and depth == 0:
            if inner[start:at].strip():
                yield from flatten(inner[start:at], prefix + head)
            start = at + 1


class Crate:
    def __init__(self):
        self.files = {}
        for path in sorted(SRC.rglob("*.rs")):
            if "tests" in path.with_suffix("").parts or path.stem == "testing":
                continue
            self.files[module_of(path)] = (path, without_tests_and_comments(path.read_text()))
        # `pub use` lines: (module that re-exports, name) -> path of the item.
        self.reexports = {}
        for module, (_, text) in self.files.items():
            for match in USE.finditer(text):
                if "pub" in match.group(0).split("use")[0]:
                    for path in flatten(match.group(1)):
                        if path:
                            self.reexports[module, path[-1]] = path

    def absolute(self, module, path):
        path = list(path)
        if path[0] == LIBRARY and module[:1] == ("bin",):
            return tuple(path[1:])
        if path[0] == "crate":
            return tuple(module[:2] if module[:1] == ("bin",) else ()) + tuple(path[1:])
        base = list(module)
        if path[0] == "self":
            return tuple(base + path[1:])
        if path[0] == "super":
            while path and path[0] == "super":
                base, path = base[:-1], path[1:]
            return tuple(base + path)
        if tuple(base + path[:1]) in self.files:
            return tuple(base + path)
        return None

    def file_of(self, module, path, depth=0):
        """The module whose file contains the item at `path`; None if it is of another crate."""
        target = self.absolute(module, path)
        if target is None:
            return None
        length = len(target)
        while length and target[:length] not in self.files:
            length -= 1
        found, rest = target[:length], target[length:]
        if rest and depth < 5 and (found, rest[0]) in self.reexports:
            onward = self.file_of(found, self.reexports[found, rest[0]] + rest[1:], depth + 1)
            if onward is not None:
                return onward
        return found

    def imports(self):
        """For each module, the modules from which its file uses items."""
        arrows = {}
        for module, (_, text) in self.files.items():
            paths = set()
            for match in USE.finditer(text):
                is_public = "pub" in match.group(0).split("use")[0]
                for path in flatten(match.group(1)):
                    # A `pub use` re-exports an item without using it.
                    if not is_public and path:
                        paths.add(path)
            rest = USE.sub("", text)
            rest = re.sub(r"pub\(in [^)]*\)", "", rest)
            paths.update(tuple(found.split("::")) for found in PATH.findall(rest))
            targets = {self.file_of(module, path) for path in paths}
            arrows[module] = {t for t in targets if t is not None and t != module and t in self.files}
        return arrows


def name_of(module):
    return "::".join(module) or "lib"


def circles(crate):
    arrows = crate.imports()
    index, low, stack, on_stack, found = {}, {}, [], set(), []

    def visit(node):
        index[node] = low[node] = len(index)
        stack.append(node)
        on_stack.add(node)
        for onward in arrows.get(node, ()):
            if onward not in index:
                visit(onward)
                low[node] = min(low[node], low[onward])
            elif onward in on_stack:
                low[node] = min(low[node], index[onward])
        if low[node] == index[node]:
            part = set()
            while node not in part:
                part.add(stack.pop())
            on_stack.difference_update(part)
            if len(part) > 1:
                found.append(part)

    sys.setrecursionlimit(10_000)
    for node in arrows:
        if node not in index:
            visit(node)
    for part in found:
        for node in sorted(part):
            for onward in sorted(arrows[node] & part):
                yield f"{name_of(node)} -> {name_of(onward)}"
        yield f"  is a circle of {len(part)} files"


def row_of(module):
    for row, rooms in enumerate(ROWS):
        for room in rooms:
            parts = tuple(room.split("::"))
            if module[: len(parts)] == parts:
                return row, room
    return None


def upward(crate):
    for module, onward in crate.imports().items():
        here = row_of(module)
        for target in sorted(onward):
            there = row_of(target)
            if here is None or there is None:
                if len(module) > 1 and here is None:
                    yield f"{name_of(module)} stands in no row"
                continue
            if there[0] > here[0] or (there[0] == here[0] and there[1] != here[1]):
                yield f"{name_of(module)} -> {name_of(target)}"


def names(crate):
    places = {}
    for module, (_, text) in crate.files.items():
        for name in TYPE.findall(text):
            places.setdefault(name, set()).add(name_of(module))
    for name, where in sorted(places.items()):
        if len(where) > 1:
            yield f"{name}: {', '.join(sorted(where))}"


if __name__ == "__main__":
    what = {"circles": circles, "upward": upward, "names": names}[sys.argv[1]]
    violations = list(dict.fromkeys(what(Crate())))
    print("\n".join(violations))
    sys.exit(bool(violations))

"""Where in a TOML document each key stands: for error messages that lead to the place.

``tomllib`` gives values and no positions. tree-sitter's grammar gives positions, and is asked only once a document has
been found to be TOML and its values to be wrong.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator

import tree_sitter_toml
from tree_sitter import Language, Node, Parser

Path = tuple[str | int, ...]
KEYS = ("bare_key", "quoted_key", "dotted_key")


def find_positions(source: bytes) -> dict[Path, tuple[int, int]]:
    """Path of every key, table and array element to its (line, column), both from 1, columns in characters.

    A table that is opened more than once is where it was opened first. ``source`` must be what tomllib accepts.
    """
    tree = Parser(Language(tree_sitter_toml.language())).parse(source)
    finder = _Finder(source)
    finder.document(tree.root_node)
    return finder.found


class _Finder:
    def __init__(self, source: bytes) -> None:
        self._lines = source.split(b"\n")
        self.found: dict[Path, tuple[int, int]] = {}
        self._array_tables: dict[Path, int] = {}

    def document(self, root: Node) -> None:
        for node in root.children:
            if node.type == "pair":
                self._pair(node, ())
            elif node.type in ("table", "table_array_element"):
                self._table(node)

    def _table(self, node: Node) -> None:
        header = next(child for child in node.children if child.type in KEYS)
        path = self._below_arrays(self._keys(header), header)
        if node.type == "table_array_element":
            index = self._array_tables.get(path, -1) + 1
            self._array_tables[path] = index
            path = (*path, index)
            self._note(path, header)
        for child in node.children:
            if child.type == "pair":
                self._pair(child, path)

    def _below_arrays(self, keys: list[str], node: Node) -> Path:
        """The path of a header: one that leads through an array of tables means the array's last element."""
        path: Path = ()
        for number, key in enumerate(keys):
            path = (*path, key)
            self._note(path, node)
            if number < len(keys) - 1 and path in self._array_tables:
                path = (*path, self._array_tables[path])
        return path

    def _pair(self, node: Node, above: Path) -> None:
        key, value = (child for child in node.children if child.is_named and child.type != "comment")
        path = above
        for part in self._keys(key):
            path = (*path, part)
            self._note(path, key)
        self._value(value, path)

    def _value(self, node: Node, path: Path) -> None:
        if node.type == "inline_table":
            for child in node.children:
                if child.type == "pair":
                    self._pair(child, path)
        elif node.type == "array":
            elements = [child for child in node.children if child.is_named and child.type != "comment"]
            for index, child in enumerate(elements):
                self._note((*path, index), child)
                self._value(child, (*path, index))

    def _note(self, path: Path, node: Node) -> None:
        row, column = node.start_point
        before = self._lines[row][:column].decode(errors="replace")
        self.found.setdefault(path, (row + 1, len(before) + 1))

    def _keys(self, node: Node) -> list[str]:
        return list(_keys(node))


def _keys(node: Node) -> Iterator[str]:
    if node.type == "dotted_key":
        for child in node.children:
            if child.type in KEYS:
                yield from _keys(child)
    else:
        text = (node.text or b"").decode()
        # A quoted key has escapes; whoever reads values reads them, too.
        yield next(iter(tomllib.loads(f"{text} = 0"))) if node.type == "quoted_key" else text

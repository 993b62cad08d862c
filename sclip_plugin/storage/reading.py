"""Text files as other systems write them, and YAML and JSON that cannot do harm: read right, or refused by name."""

from __future__ import annotations

import codecs
import json
import os
import re
import reprlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import yaml

from ..errors import FileFormatError

LARGEST_FILE = 2**24  # bytes
LARGEST_TREE = 200_000  # values that YAML or JSON may hold, aliases followed
DEEPEST_TREE = 40

# The longer mark first: UTF-32's begins with UTF-16's.
_MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}


class TextFileError(FileFormatError):
    """A text file that cannot be read: says which, and in which encoding or form it seems to be."""


def read_text(path: str | os.PathLike[str]) -> str:
    """A text file in UTF-8, with or without a byte order mark, or in UTF-16 or UTF-32 with one.

    Anything else is refused: which letters a byte of latin-1 and its like stands for, nobody can know.

    Raises:
        TextFileError: another encoding, no text at all, or more than 16 MiB.
        OSError: the file can't be read.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from sclip_plugin.storage.reading import read_text
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "labels.txt"
        ...     _ = path.write_bytes("café".encode("utf-16"))
        ...     read_text(path)
        'café'
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise TextFileError(f"{path} is no file; expected a text file.")
    if path.stat().st_size > LARGEST_FILE:
        raise TextFileError(f"{path} is larger than {LARGEST_FILE // 2**20} MiB; expected a short text file.")
    data = path.read_bytes()
    mark, encoding = next(((m, e) for m, e in _MARKS.items() if data.startswith(m)), (b"", "utf-8"))
    try:
        text = data[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        raise TextFileError(
            f"{path} is not {encoding.upper()}: byte {data[len(mark) + error.start]:#04x} at {error.start}. It may be "
            "latin-1 or another old encoding; save it as UTF-8."
        ) from error
    if "\0" in text:
        raise TextFileError(
            f"{path} holds null characters: no text, or UTF-16 without a byte order mark; save it as UTF-8."
        )
    return text


def lines_of(text: str) -> list[str]:
    """Lines as Unix, Windows and old Macs end them, and only those: other separators may stand within a name."""
    lines = re.split(r"\r\n|\r|\n", text)
    return lines[:-1] if lines and not lines[-1] else lines


def load_yaml(text: str, name: object) -> Any:
    """What YAML text holds: lists, mappings and plain values, of bounded size and depth.

    Raises:
        TextFileError: no YAML, or more of it than anybody writes: nested more than 40 deep, or, with every alias
            followed, more than 200,000 values.

    Example:
        >>> from sclip_plugin.storage.reading import load_yaml
        >>> load_yaml("classes: [cat, [sofa, couch]]", "mine.yaml")
        {'classes': ['cat', ['sofa', 'couch']]}
    """
    try:
        loader = _BoundedLoader(text)
        try:
            node = loader.get_single_node()
            # Aliases are followed before anything is made of them: merge keys copy what they name.
            _check_size(node, _parts_of_node)
            return None if node is None else loader.construct_document(node)
        finally:
            loader.dispose()
    except _TooLarge as error:
        raise TextFileError(f"{name} {error}") from error
    # The loader raises ValueError and its like for dates and numbers that cannot be.
    except (yaml.YAMLError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise TextFileError(f"{name} cannot be read as YAML: {_short(error)}") from error


def load_json(text: str, name: object) -> Any:
    """What JSON text holds, of bounded size and depth; raises like `load_yaml`."""
    try:
        tree = json.loads(text)
        _check_size(tree, _parts_of_value)
        return tree
    except _TooLarge as error:
        raise TextFileError(f"{name} {error}") from error
    except (ValueError, RecursionError) as error:
        raise TextFileError(f"{name} cannot be read as JSON: {_short(error)}") from error


def brief(value: Any) -> str:
    """A value for a message: a line of it, however large it is."""
    text = _repr.repr(value)
    return text if len(text) <= 120 else f"{text[:119]}…"


_repr = reprlib.Repr()
_repr.maxlevel = 3
_repr.maxstring = _repr.maxother = 80


class _TooLarge(Exception):
    """More than anybody writes; the message goes behind the file's name."""


_DEEP = f"is nested more than {DEEPEST_TREE} deep; expected a few levels."
_MANY = f"holds more than {LARGEST_TREE:,} values, with its aliases followed."


class _BoundedLoader(yaml.SafeLoader):
    """Stops while it reads, before a deep or a long text has become a tree."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.depth = self.count = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.depth += 1
        self.count += 1
        if self.depth > DEEPEST_TREE:
            raise _TooLarge(_DEEP)
        if self.count > LARGEST_TREE:
            raise _TooLarge(_MANY)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def _check_size(tree: Any, parts: Callable[[Any], Iterable[Any]]) -> None:
    """Walk through it as if what is named in several places stood in each of them."""
    waiting = [(tree, 1)]
    seen = 0
    while waiting:
        value, depth = waiting.pop()
        seen += 1
        if depth > DEEPEST_TREE:
            raise _TooLarge(_DEEP)
        if seen > LARGEST_TREE:
            raise _TooLarge(_MANY)
        waiting += [(part, depth + 1) for part in parts(value)]


def _parts_of_node(node: Any) -> Iterable[Any]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return node.value if isinstance(node, yaml.SequenceNode) else ()


def _parts_of_value(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return [part for pair in value.items() for part in pair]
    return value if isinstance(value, list) else ()


def _short(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:300]}…"

"""Files of labels: one rule for the command line's ``--labels @FILE`` and Detectron2's ``CLASSES_FILE``.

See docs/labels.md for the rule with examples.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import LabelError
from ..storage.reading import TextFileError, brief, lines_of, load_json, load_yaml, read_text

if TYPE_CHECKING:
    from .tuned import Tuned

_BETWEEN = re.compile(r"[,|]")


def read_labels(path: str | os.PathLike[str]) -> list[list[str]] | dict[str, list[str]] | Tuned:
    """The classes that a file names, in a form that `parse_labels` takes.

    Args:
        path: JSON or YAML (by its suffix): a list of names, in which a list holds synonyms, or a mapping of a label,
            which is shown, to the names that stand for it. ``.safetensors``: labels that ``sclip tune`` made. Any
            other file is text: one class a line, or all of them in a single line between commas.

    Returns:
        A list of classes, each with its names, the first of which is its label; or a dict of labels to names; or a
        `Tuned`.

    In a line, and in a text within JSON or YAML, commas and bars stand between synonyms; in a file of a single line,
    commas stand between classes. Empty lines, and lines that begin with ``#``, count for nothing. Files are UTF-8, or
    UTF-16 with a byte order mark, with any line ends.

    Raises:
        LabelError: no such file, another encoding or form, or no names.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from sclip_plugin.text.files import read_labels
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "labels.txt"
        ...     _ = path.write_text("# mine\\ncat\\nsofa, couch\\n")
        ...     read_labels(path)
        [['cat'], ['sofa', 'couch']]
    """
    path = Path(path)
    if path.suffix.lower() == ".safetensors":
        from .tuned import Tuned

        return Tuned.load(path)
    classes: list[list[str]] | dict[str, list[str]]
    try:
        text = read_text(path)
        suffix = path.suffix.lower()
        if suffix == ".json":
            classes = _from_tree(load_json(text, path), path)
        elif suffix in (".yaml", ".yml"):
            classes = _from_tree(load_yaml(text, path), path)
        else:
            classes = _from_lines(lines_of(text))
    except OSError as error:
        raise LabelError(f"the labels' file {path} can't be read: {error.strerror or error}") from error
    except TextFileError as error:
        raise LabelError(f"the labels' file can't be read: {error}") from error
    if not classes:
        raise LabelError(f"the labels' file {path} holds no names; expected one class a line.")
    return classes


def split_labels(text: str) -> list[list[str]]:
    """Classes between commas, and bars between the synonyms of one.

    Example:
        >>> from sclip_plugin.text.files import split_labels
        >>> split_labels("cat, sofa|couch")
        [['cat'], ['sofa', 'couch']]
    """
    return _named(entry.split("|") for entry in text.split(","))


def looks_like_file(text: str) -> bool:
    """Whether what was given as labels is the path of a file, given without its ``@``."""
    try:
        return ("/" in text or os.sep in text or bool(Path(text).suffix)) and os.path.isfile(text)
    except ValueError:  # null characters
        return False


def _from_lines(lines: list[str]) -> list[list[str]]:
    lines = [line for line in (line.strip() for line in lines) if line and not line.startswith("#")]
    if len(lines) == 1:
        return split_labels(lines[0])
    return _named(_BETWEEN.split(line) for line in lines)


def _from_tree(tree: Any, path: Path) -> list[list[str]] | dict[str, list[str]]:
    if isinstance(tree, dict):
        names = _named(_parts(entry, f"the class {brief(label)}", path) for label, entry in tree.items())
        labels = [_parts(label, "a label", path, between=None)[0] for label in tree]
        if len(names) != len(labels):
            raise LabelError(f"{path} has a label without names; expected one name at least for each.")
        return dict(zip(labels, names, strict=True))
    if isinstance(tree, list):
        return _named(_parts(entry, f"class {index}", path) for index, entry in enumerate(tree))
    raise LabelError(
        f"{path} holds {brief(tree)}, a {type(tree).__name__}; expected a list of names (a list in it holds synonyms), "
        "or a mapping of label to names."
    )


def _parts(entry: Any, what: str, path: Path, between: re.Pattern[str] | None = _BETWEEN) -> list[str]:
    """The names of one class: a text, or a list of texts."""
    names = entry if isinstance(entry, list) else [entry]
    for name in names:
        if not isinstance(name, str):
            raise LabelError(
                f"{what} of {path} is {brief(name)}, a {type(name).__name__}; expected a name. What YAML reads as "
                "something else (yes, no, on, numbers, dates) needs quotes."
            )
    return [part for name in names for part in (between.split(name) if between else [name])]


def _named(classes: Any) -> list[list[str]]:
    """Names without blanks around them, each once in its class; classes without names are left out."""
    stripped = (list(dict.fromkeys(name.strip() for name in names if name.strip())) for names in classes)
    return [names for names in stripped if names]

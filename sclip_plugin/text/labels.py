"""Words as people write them: labels and their synonyms, and prompt templates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files as package_files

from ..errors import LabelError, UnknownNameError

Labels = Sequence[str | Sequence[str]] | Mapping[str, str | Sequence[str]] | str

BACKGROUND = "background"


@cache
def _data_lines(name: str) -> tuple[str, ...]:
    text = package_files("sclip_plugin.text").joinpath(f"data/{name}").read_text(encoding="utf-8")
    return tuple(text.split("\n")[:-1])


def imagenet_templates() -> tuple[str, ...]:
    """The 80 prompt templates of CLIP's ImageNet evaluation, with ``{}`` for the name."""
    return _data_lines("imagenet_templates.txt")


def background_names() -> tuple[str, ...]:
    """The stuff words that stand for background in SCLIP's VOC vocabulary."""
    return _data_lines("background.txt")


def parse_templates(templates: str | Sequence[str]) -> tuple[str, ...]:
    """``"imagenet"`` (the 80), ``"plain"`` (one), one template of your own, or several; each with one ``{}``.

    Raises:
        UnknownNameError: a template without exactly one ``{}``.

    Example:
        >>> from sclip_plugin.text.labels import parse_templates
        >>> parse_templates("plain"), len(parse_templates("imagenet"))
        (('a photo of a {}.',), 80)
    """
    if templates == "imagenet":
        return imagenet_templates()
    if templates == "plain":
        return ("a photo of a {}.",)
    given = (templates,) if isinstance(templates, str) else tuple(templates)
    for template in given or ("",):
        if not isinstance(template, str) or template.count("{}") != 1:
            raise UnknownNameError(
                f"{template!r} is not a prompt template: expected 'imagenet', 'plain', or texts with one {{}} for the "
                "name, such as 'a photo of a {}.'."
            )
    return tuple(dict.fromkeys(given))


@dataclass(frozen=True)
class Vocabulary:
    """Classes and the names that stand for them.

    Attributes:
        labels: one name a class, for people.
        names: all distinct names, each embedded once.
        class_of_name: (len(names),) class index of each name.
    """

    labels: tuple[str, ...]
    names: tuple[str, ...]
    class_of_name: tuple[int, ...]


def parse_labels(labels: Labels, background: bool = False) -> Vocabulary:
    """Labels as people write them to classes and names.

    Args:
        labels: a list of names, in which a list stands for one class with its synonyms (the first is shown); a dict of
            label to synonyms; or a string with names between commas.
        background: add SCLIP's background vocabulary as one more class, named ``"background"``, at the end.

    Raises:
        LabelError: no labels, an empty or non-text name, or a label given twice.

    Example:
        >>> from sclip_plugin.text.labels import parse_labels
        >>> parse_labels(["cat", ["sofa", "couch"]])
        Vocabulary(labels=('cat', 'sofa'), names=('cat', 'sofa', 'couch'), class_of_name=(0, 1, 1))
    """
    wanted = "expected a list of names such as ['cat', 'dog'], where a list inside names synonyms of one class"
    if isinstance(labels, str):
        labels = [part for part in labels.split(",")]
    if isinstance(labels, Mapping):
        classes = [(label, [names] if isinstance(names, str) else list(names)) for label, names in labels.items()]
    elif isinstance(labels, Sequence):
        groups = [[entry] if isinstance(entry, str) else entry for entry in labels]
        if not all(isinstance(group, Sequence) for group in groups):
            raise LabelError(f"labels holds {next(g for g in groups if not isinstance(g, Sequence))!r}; {wanted}.")
        classes = [(group[0] if group else "", list(group)) for group in groups]
    else:
        raise LabelError(f"labels is a {type(labels).__name__}; {wanted}.")
    if background:
        classes.append((BACKGROUND, list(background_names())))
    if not classes:
        raise LabelError(f"labels is empty; {wanted}.")
    shown: list[str] = []
    names: list[str] = []
    class_of_name: list[int] = []
    for index, (label, synonyms) in enumerate(classes):
        for name in [label, *synonyms]:
            if not isinstance(name, str) or not name.strip():
                raise LabelError(f"label {index} is {name!r}; {wanted}, none of them empty.")
        label = label.strip()
        if label in shown:
            raise LabelError(f"label {label!r} is given twice; name each class once (synonyms go into one list).")
        shown.append(label)
        # Two classes may share a synonym; within a class a name counts once.
        distinct = list(dict.fromkeys(name.strip() for name in synonyms)) or [label]
        names += distinct
        class_of_name += [index] * len(distinct)
    return Vocabulary(tuple(shown), tuple(names), tuple(class_of_name))

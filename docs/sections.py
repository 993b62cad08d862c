"""Section names of our docstrings as the reference's reader of docstrings knows them; for mkdocs alone."""

import griffe

NAMES = {"Example:": "Examples:", "Fields:": "Attributes:", "Class attributes:": "Attributes:"}


class Sections(griffe.Extension):
    def on_object(self, *, obj: griffe.Object, **kwargs) -> None:
        if obj.docstring:
            lines = obj.docstring.value.splitlines()
            obj.docstring.value = "\n".join(NAMES.get(line.strip(), line) for line in lines)

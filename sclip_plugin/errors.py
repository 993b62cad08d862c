"""The errors of the package; each is a subclass of the built-in that a caller would catch."""


class UnknownNameError(ValueError):
    """A method, tower, preset or option that does not exist."""


class UnsupportedModelError(TypeError):
    """A model whose structure no registered tower knows."""


class LabelError(ValueError):
    """Labels that cannot name classes: none, empty, or in a form that is not understood."""


class PictureError(ValueError):
    """A picture that cannot be read or has an unusable shape."""


class ModelLoadError(OSError):
    """A model name that cannot be resolved to weights on this machine."""


def unknown_name(kind: str, given: str, known) -> UnknownNameError:
    """The one wording for a name that is not in a registry: what was given, the nearest names, what exists."""
    import difflib

    known = sorted(known)
    near = difflib.get_close_matches(str(given), known, n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    listed = known if len(known) <= 40 else [*difflib.get_close_matches(str(given), known, n=12, cutoff=0.3), "…"]
    return UnknownNameError(f"unknown {kind} '{given}'.{hint} Known: {', '.join(listed) or 'none'}.")

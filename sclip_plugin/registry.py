"""One kind of registry for methods, towers, guides and steps: names to classes, by decorators and entry points."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Generic, TypeVar

from .errors import RegistrationError, unknown_name

T = TypeVar("T", bound=type)


class Registry(Generic[T]):
    """Names to classes.

    What a third party installs under the entry point group is loaded the first time a name is looked up that is not
    here yet, or when all names are listed. A third-party package that fails to load is warned of, once and by name;
    the others load all the same.
    """

    def __init__(self, kind: str, entry_point_group: str) -> None:
        self.kind = kind
        self.entry_point_group = entry_point_group
        self._classes: dict[str, T] = {}
        self._aliases: dict[str, str] = {}
        self._entry_points_loaded = False

    def __repr__(self) -> str:
        return f"<registry of {self.kind}s>"

    def register(self, name: str, *, replace: bool = False, aliases: tuple[str, ...] = ()) -> Callable[[T], T]:
        """Class decorator that adds the class under ``name``.

        Args:
            name: how it is called.
            replace: take the place of a class that has the name already.
            aliases: other names that lead to it; they are not listed.

        Raises:
            RegistrationError: another class has the name, and ``replace`` is not set.
        """

        def add(cls: T) -> T:
            for taken in (name, *aliases):
                known = self._classes.get(self._aliases.get(taken, taken))
                if known is not None and not replace:
                    raise RegistrationError(
                        f"the {self.kind} '{taken}' is registered already, as {known.__module__}.{known.__qualname__}; "
                        "choose another name, or register with replace=True to take its place."
                    )
            cls.name = name  # type: ignore[attr-defined]
            self._classes[name] = cls
            self._aliases.update(dict.fromkeys(aliases, name))
            return cls

        return add

    def __getitem__(self, name: str) -> T:
        if self._found(name) is None:
            self._load_entry_points()
        found = self._found(name)
        if found is None:
            raise unknown_name(self.kind, name, {*self._classes, *self._aliases})
        return found

    def __contains__(self, cls: object) -> bool:
        """Whether a class is what its name leads to."""
        return self._classes.get(getattr(cls, "name", "")) is cls

    def names(self) -> tuple[str, ...]:
        """All names, in order of registration, with those of installed entry points."""
        self._load_entry_points()
        return tuple(self._classes)

    def _found(self, name: str) -> T | None:
        return self._classes.get(self._aliases.get(name, name)) if isinstance(name, str) else None

    def _load_entry_points(self) -> None:
        if self._entry_points_loaded:
            return
        self._entry_points_loaded = True
        for entry_point in entry_points(group=self.entry_point_group):
            if entry_point.name in self._classes:
                continue
            try:
                cls = entry_point.load()
                if entry_point.name not in self._classes:  # importing it may have registered it
                    self.register(entry_point.name)(cls)
            except Exception as error:  # whatever somebody else's package raises
                warnings.warn(
                    f"the {self.kind} '{entry_point.name}' of {entry_point.value} could not be loaded: "
                    f"{type(error).__name__}: {error}",
                    stacklevel=3,
                )

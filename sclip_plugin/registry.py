"""One registry for methods and towers: names to classes, filled by decorators and by entry points."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Generic, TypeVar

from .errors import unknown_name

T = TypeVar("T", bound=type)


class Registry(Generic[T]):
    """Names to classes.

    What a third party installs under the entry point group is loaded the first time a name is looked up that is not
    here yet, or when all names are listed; a broken third-party package then raises its own error, never at import.
    """

    def __init__(self, kind: str, entry_point_group: str) -> None:
        self.kind = kind
        self.entry_point_group = entry_point_group
        self._classes: dict[str, T] = {}
        self._entry_points_loaded = False

    def register(self, name: str) -> Callable[[T], T]:
        """Class decorator that adds the class under ``name``; of a name registered twice the later class counts."""

        def add(cls: T) -> T:
            cls.name = name  # type: ignore[attr-defined]
            self._classes[name] = cls
            return cls

        return add

    def __getitem__(self, name: str) -> T:
        if name not in self._classes:
            self._load_entry_points()
        if name not in self._classes:
            raise unknown_name(self.kind, name, self._classes)
        return self._classes[name]

    def names(self) -> tuple[str, ...]:
        """All names, in order of registration, with those of installed entry points."""
        self._load_entry_points()
        return tuple(self._classes)

    def _load_entry_points(self) -> None:
        if self._entry_points_loaded:
            return
        self._entry_points_loaded = True
        for entry_point in entry_points(group=self.entry_point_group):
            if entry_point.name not in self._classes:
                self.register(entry_point.name)(entry_point.load())

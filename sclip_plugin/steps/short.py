"""Short forms of settings: ``threshold=0.4``, ``refine=True``, ``present=0.5`` in place of entries in ``steps``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ..errors import SettingError
from .base import PLACES, Step
from .decisions import Threshold
from .presence import Present
from .registry import STEPS, listed, make_step

ORDER: tuple[str, ...] = (
    "present", "lposs_plus", "merge", "memory", "freecp_background", "pearl", "pamr",
    "benchmark", "threshold", "normalize", "closing", "sam", "specks", "vote",
)  # fmt: skip
"""The order of steps that decides where a short form adds its step."""


REFINED = "pamr, specks"
"""What ``refine=True`` stands for: PAMR alone leaves hundreds of dots in a picture (`benchmarks/edges.py`)."""


def _threshold(value: Any, before: Step | None) -> tuple[Step, ...]:
    return (replace(before, probability=value) if isinstance(before, Threshold) else Threshold(probability=value),)


def _present(value: Any, before: Step | None) -> tuple[Step, ...]:
    given = {} if value is True else {"threshold" if isinstance(value, (int, float)) else "null": value}
    return (replace(before, **given) if isinstance(before, Present) else Present(**given),)


def _refine(value: Any, before: Step | None) -> tuple[Step, ...]:
    steps = tuple(make_step(step) for step in (listed(REFINED) if value is True else (value,)))
    if any(step.called() not in ("pamr", "sam", "specks") for step in steps):
        raise SettingError(f"refine={value!r}; expected True, 'pamr', 'sam(…)', or False; other steps go into steps=.")
    return steps


SHORT_FORMS: Mapping[str, tuple[tuple[str, ...], Callable[[Any, Step | None], tuple[Step, ...]]]] = {
    "threshold": (("threshold",), _threshold),
    "refine": (("pamr", "sam", "specks"), _refine),
    "present": (("present",), _present),
}
"""Of each short form the steps that it stands for, and what makes them of its value and of the step before."""


def with_short_forms(steps: Any, short: Mapping[str, Any]) -> tuple[str | Step, ...]:
    """Add the steps of short forms to ``steps``. None changes nothing; False removes a form's steps.

    >>> with_short_forms(("closing(3)",), {"threshold": 0.4, "refine": True})
    ('pamr', 'threshold(probability=0.4)', 'closing', 'specks')
    """
    made = [make_step(step) for step in listed(steps)]
    for form, value in short.items():
        if value is None:
            continue
        names, make = SHORT_FORMS[form]
        if value is False:
            made = [step for step in made if step.called() not in names]
            continue
        before = next((step for step in made if step.called() in names), None)
        for step in make(value, before):
            same = next((i for i, there in enumerate(made) if there.called() == step.called()), None)
            if same is not None:
                made[same] = step
            else:
                made.insert(_place(step, made), step)
    return tuple(STEPS.canonical(step) for step in made)


def value_of(steps: Any, form: str) -> Any:
    """The value of a short form that would give these steps; False if none of its steps is there.

    >>> value_of(("pamr", "threshold(0.4)"), "threshold"), value_of(("pamr", "specks"), "refine")
    (0.4, True)
    """
    found = [step for step in map(make_step, steps) if step.called() in SHORT_FORMS[form][0]]
    if not found:
        return False
    if isinstance(found[0], Threshold):
        return found[0].probability
    if isinstance(found[0], Present):
        return found[0].threshold if found[0].null is None else found[0].null
    texts = [step.as_text() for step in found]
    return True if texts == list(listed(REFINED)) else texts[0]


def _place(step: Step, steps: list[Step]) -> int:
    def rank(other: Step) -> tuple[int, int]:
        return PLACES.index(other.on), ORDER.index(other.called()) if other.called() in ORDER else -1

    return next((i for i, other in enumerate(steps) if rank(other) > rank(step)), len(steps))

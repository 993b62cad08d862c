"""Steps on scores and labels: one file per family, and the registry."""

# The order of these modules is the order in which `list_steps` and `sclip methods` show what they register.
from . import presence, surgery, itaclip, excel, cliptrase, dinoiser, freecp, lposs  # noqa: F401, I001
from . import memory, rns, floss, pearl, pamr, decisions, sam  # noqa: F401, I001
from .base import Decided, PatchScores, PixelScores, Shown, Step, Words
from .presence import Presence, Present
from .registry import STEPS, list_steps, listed, make_step, register_step
from .scores import ClassScores, FirstClasses, GivenScores, NameScores

__all__ = [
    "STEPS",
    "ClassScores",
    "Decided",
    "FirstClasses",
    "GivenScores",
    "NameScores",
    "PatchScores",
    "PixelScores",
    "Presence",
    "Present",
    "Shown",
    "Step",
    "Words",
    "list_steps",
    "listed",
    "make_step",
    "register_step",
]

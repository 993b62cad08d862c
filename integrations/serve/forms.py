"""Forms as visitors send them: no field is ignored, none is given twice, and what is wrong is said in one sentence."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import File, Form, HTTPException, Request, UploadFile
from fastapi.exceptions import RequestValidationError

from sclip_plugin.errors import unknown_name
from sclip_plugin.settings import setting_names

from .answers import MaskFormat

MANY = ("labels", "pictures", "masks")
"""The fields that may be given several times."""
Picture = Annotated[UploadFile, File(description="A picture's file. Its size is limited, see the top.")]
LabelFields = Annotated[
    list[str],
    Form(
        description="Names between commas, '|' between synonyms: `cat, sofa|couch`; or a JSON list: "
        '`["cat", ["sofa", "couch"]]`. The field may be repeated. `@auto` in front: the names found in the picture.'
    ),
]
NamesFields = Annotated[
    list[str] | None,
    Form(
        description="`@auto`, the default: the shipped list of words. `@auto, cat`: offer `cat` too, before its like."
    ),
]
TopField = Annotated[int, Form(ge=1, description="At most so many names.")]
Pictures = Annotated[list[UploadFile], File(description="Files of annotated pictures. Their number is limited.")]
Masks = Annotated[
    list[UploadFile],
    File(
        description="A PNG for each picture, in the same order: one channel, or a palette, of the labels' places, from "
        "0; 255 is not learnt from."
    ),
]
TunedField = Annotated[
    str | None,
    Form(description="`id` of an answer of POST /tune: labels that it knows mean what was learnt, others are words."),
]
MaskFormatField = Annotated[
    MaskFormat, Form(description="How masks are answered: COCO's run lengths, one PNG of label indices, or not at all.")
]


class KnownFields:
    """A dependency that refuses fields that a request does not know, and fields that are given twice.

    Args:
        *names: the fields of the form.

    Raises:
        HTTPException: 422, naming the field.
    """

    def __init__(self, *names: str) -> None:
        self.names = names

    async def __call__(self, request: Request) -> None:
        given = [name for name, _ in (await request.form()).multi_items()]
        for name in [*request.query_params, *given]:
            if name in request.query_params:
                raise HTTPException(422, f"{name!r} is in the address; expected fields in a form, as 'curl -F' sends.")
            if name in self.names:
                if name not in MANY and given.count(name) > 1:
                    raise HTTPException(422, f"the field {name!r} is given {given.count(name)} times; expected one.")
            elif name in setting_names():
                raise HTTPException(
                    422,
                    f"{name!r} is a setting; whoever starts the server chooses it. Fields: {', '.join(self.names)}.",
                )
            else:
                raise HTTPException(422, str(unknown_name("field", name, self.names)))


def sentence_of(error: RequestValidationError) -> str:
    """What is wrong with a request, in one line."""
    return "; ".join(_one(entry) for entry in error.errors()) + "."


def _one(entry: dict[str, Any]) -> str:
    where = ".".join(str(part) for part in entry["loc"][1:2]) or "the request"
    if entry["type"] == "missing":
        return f"the field {where!r} is missing; expected a form, as 'curl -F' sends"
    given = entry.get("input")
    shown = f"{where}={given[:80]!r}" if isinstance(given, str) else where
    return f"{shown}: {entry['msg'][:1].lower()}{entry['msg'][1:]}"

"""Tokenizers of transformers, of open_clip and of OpenAI's clip, in the two forms that text towers want."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import Tensor

from ..errors import ArgumentTypeError


def pad_id(tokenizer: Any) -> int:
    return getattr(tokenizer, "pad_token_id", None) or 0


def _is_transformers(tokenizer: Any) -> bool:
    return hasattr(tokenizer, "convert_tokens_to_ids")


def padded_ids_of(tokenizer: Any) -> Callable[[Sequence[str], int], Tensor]:
    """Prompts and a length to padded ids (n, length), as a user of the model would make them."""
    # Partials of functions, not lambdas: a segmenter goes to worker processes.
    if _is_transformers(tokenizer):
        return partial(_pad_transformers, tokenizer)
    if not callable(tokenizer):
        raise _wrong_tokenizer(tokenizer)
    parameters = inspect.signature(tokenizer).parameters
    if "context_length" not in parameters:
        raise _wrong_tokenizer(tokenizer)
    return partial(_pad_truncating if "truncate" in parameters else _pad, tokenizer)


def _pad(tokenizer: Any, prompts: Sequence[str], length: int) -> Tensor:
    return tokenizer(list(prompts), context_length=length)


def _pad_truncating(tokenize: Any, prompts: Sequence[str], length: int) -> Tensor:
    return tokenize(list(prompts), context_length=length, truncate=True)


def _pad_transformers(tokenizer: Any, prompts: Sequence[str], length: int) -> Tensor:
    options = {"padding": "max_length", "truncation": True, "max_length": length, "return_tensors": "pt"}
    return tokenizer(list(prompts), **options)["input_ids"]


def ids_of(tokenizer: Any) -> Callable[[Sequence[str]], list[list[int]]]:
    """Prompts to lists of ids with start and end tokens, whole (not cut), whatever kind of tokenizer it is."""
    inner = getattr(tokenizer, "tokenizer", tokenizer)  # open_clip's HFTokenizer holds transformers' own
    if _is_transformers(inner):
        return partial(_tokenize_transformers, inner, getattr(tokenizer, "clean_fn", None))
    if hasattr(inner, "sot_token_id") and hasattr(inner, "encode"):
        return partial(_tokenize_open_clip, inner)
    if callable(inner):
        return partial(_tokenize_openai, inner)
    raise _wrong_tokenizer(tokenizer)


def _wrong_tokenizer(tokenizer: Any) -> ArgumentTypeError:
    return ArgumentTypeError(
        f"tokenizer is a {type(tokenizer).__name__}; expected a tokenizer of transformers, of open_clip.get_tokenizer, "
        "or a function like clip.tokenize that takes a list of texts and a context_length."
    )


def _tokenize_transformers(tokenizer: Any, clean: Any, prompts: Sequence[str]) -> list[list[int]]:
    texts = [clean(prompt) for prompt in prompts] if clean else list(prompts)
    return [list(ids) for ids in tokenizer(texts, truncation=False, verbose=False)["input_ids"]]


def _tokenize_open_clip(tokenizer: Any, prompts: Sequence[str]) -> list[list[int]]:
    return [[tokenizer.sot_token_id, *tokenizer.encode(p), tokenizer.eot_token_id] for p in prompts]


def _tokenize_openai(tokenize: Any, prompts: Sequence[str]) -> list[list[int]]:
    # clip.tokenize pads with zeros behind the end token, which has the highest id. It raises where a text is longer
    # than the length that it is given; a byte is at most one token.
    length = max((len(prompt.encode()) for prompt in prompts), default=0) + 3
    return [ids[: int(ids.argmax()) + 1].tolist() for ids in tokenize(list(prompts), context_length=length)]

"""Model names to models: ``HUB_ID_OR_FOLDER``, ``open_clip:…``, ``timm:…``, ``demo``.

Weights come as safetensors, or through ``torch.load(weights_only=True)``; no code of a model's folder or from a hub is
ever run, and a config chooses neither the attention's implementation nor a class that is not the framework's own.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import re
import socket
import tempfile
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn

from .defaults import PLAIN_MEAN, PLAIN_STD
from .device import DTYPES, fastest_dtype
from .errors import ModelLoadError, unknown_name

DEMO = "demo"
SAM3 = {"sam3": "Sam3Model", "sam3_video": "Sam3Model", "sam3_lite_text": "Sam3LiteTextModel"}
"""The class of a SAM 3 by its config's ``model_type``; of the one for video its detector is taken."""

SHORT_DTYPES = {"fp32": "float32", "fp16": "float16", "half": "float16", "bf16": "bfloat16"}


@dataclass
class LoadedModel:
    """What a name stands for: a model in eval mode, its tokenizer (of a SAM 3 its processor), how its pictures are
    normalised, and the file of its null of presence, where one ships."""

    model: nn.Module
    tokenizer: Any
    image_mean: Sequence[float] | None = None
    image_std: Sequence[float] | None = None
    presence: Path | None = None

    def beside(self) -> dict[str, Any]:
        """What a segmenter takes beside model and tokenizer."""
        return {**self.statistics(), "presence": self.presence}

    def statistics(self) -> dict[str, Any]:
        """Mean and standard deviation of its pictures, as arguments of a segmenter."""
        return {"image_mean": self.image_mean, "image_std": self.image_std}


def load_model(
    name: str, *, device: str | torch.device | None = None, dtype: torch.dtype | str | None = None
) -> LoadedModel:
    """The model of a name; see `Segmenter.from_pretrained` for the forms of names, and for the arguments.

    Raises:
        ModelLoadError: the weights can't be had, the framework that reads them is not installed, or there is no such
            device.
        UnknownNameError: no such dtype.

    Example:
        >>> from sclip_plugin.loading import load_model
        >>> type(load_model("demo").model).__name__
        'CLIPModel'
    """
    try:
        device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ModelLoadError(
            f"the device '{device}' cannot be used; expected one that torch has here, such as cpu. The reason given: "
            f"{str(error).splitlines()[0]}"
        ) from error
    if dtype == "auto":
        dtype = fastest_dtype(device)
    elif isinstance(dtype, str):
        if dtype not in DTYPES:
            raise unknown_name("dtype", dtype, ("auto", *DTYPES), meant=SHORT_DTYPES.get(dtype.lower()))
        dtype = DTYPES[dtype]
    framework, colon, rest = name.partition(":")
    loaders = {"open_clip": _load_open_clip, "timm": _load_timm}
    loaded = loaders[framework](rest) if colon and framework in loaders else _load_transformers(name)
    loaded.model = loaded.model.to(device=device, dtype=dtype or torch.float32).eval()
    return loaded


def _load_transformers(name: str) -> LoadedModel:
    transformers = _need("transformers", "transformers", name)
    if name == DEMO:
        from .demo import demo_model

        source = str(demo_model())
    else:
        source = name
        folder = Path(name).expanduser()
        if folder.is_dir():
            source = str(folder)
            if not (folder / "config.json").exists():
                raise ModelLoadError(
                    f"the folder {name} holds no config.json; expected a model folder as save_pretrained writes it."
                )
        elif folder.exists():
            raise ModelLoadError(
                f"{name} is a file; name a model folder as save_pretrained writes it, or open_clip:ARCH@{name} "
                "for a checkpoint of open_clip."
            )
    elsewhere = name != DEMO and not Path(source).is_dir()
    options = {"trust_remote_code": False, "local_files_only": elsewhere and not _hub_resolves()}
    try:
        config = transformers.AutoConfig.from_pretrained(source, **options)
        _check_class(name, config)
        if config.model_type in SAM3:
            kind = getattr(transformers, SAM3[config.model_type])
            model, info = kind.from_pretrained(source, output_loading_info=True, **options)
            tokenizer, mean, std = transformers.Sam3Processor.from_pretrained(source, **options), None, None
        else:
            model, info = _from_pretrained(transformers, source, config, options)
            tokenizer = transformers.AutoTokenizer.from_pretrained(source, **options)
            mean, std = _normalisation(source, options["local_files_only"])
    except ModelLoadError:
        raise
    except Exception as error:  # what the hub's client, a parser or a broken file raises is of many kinds
        raise _cannot_fetch(name, error) from error
    missing = sorted(info["missing_keys"])
    if missing:
        raise ModelLoadError(
            f"the checkpoint of '{name}' lacks weights that its {type(model).__name__} needs, such as {missing[0]} "
            f"({len(missing)} in all): it would be read with random ones. Where words come from another "
            "model (LLM2CLIP), load this one yourself and give class vectors: labels={'crack': vector}."
        )
    return LoadedModel(model, tokenizer, mean, std, presence_in(source))


def presence_in(folder: str | None) -> Path | None:
    """The null of presence that lies in a model's folder, as the demo's does; None if there is none."""
    path = Path(folder or ".") / "presence.safetensors"
    return path if folder and path.is_file() else None


def _from_pretrained(transformers: Any, source: str, config: Any, options: dict[str, Any]) -> tuple[nn.Module, Any]:
    """The model, and what was missing; with torch's own attention, or written out where a family has no other."""
    for implementation in ("sdpa", "eager"):
        try:
            return transformers.AutoModel.from_pretrained(
                source, config=config, attn_implementation=implementation, output_loading_info=True, **options
            )
        except ValueError as error:
            if implementation == "eager" or "attention" not in str(error):
                raise
    raise AssertionError("one of the two returns or raises")


def _check_class(name: str, config: Any) -> None:
    """Refuse a config that names code of its own: what would be loaded in its place computes something else."""
    import transformers

    classes = getattr(config, "architectures", None) or ()
    foreign = [cls for cls in classes if not hasattr(transformers, cls)]
    if foreign and getattr(config, "auto_map", None):
        raise ModelLoadError(
            f"'{name}' is a {foreign[0]}, a class that its own repository brings; such code is not run here. "
            "Load the model yourself and pass it to Segmenter(model, tokenizer)."
        )


def _hub_resolves() -> bool:
    """Whether the hub's name resolves; where it does not, its client would retry for half a minute."""
    if urllib.request.getproxies():
        return True
    from huggingface_hub import constants

    try:
        socket.getaddrinfo(urllib.parse.urlsplit(constants.ENDPOINT).hostname, 443)
    except OSError:
        return False
    return True


def _normalisation(source: str, local: bool) -> tuple[list[float] | None, list[float] | None]:
    """Mean and standard deviation out of preprocessor_config.json, if the model has one."""
    from transformers.utils import cached_file

    path = cached_file(
        source, "preprocessor_config.json", local_files_only=local, _raise_exceptions_for_missing_entries=False
    )
    if path is None:
        return None, None
    config = json.loads(Path(path).read_text(encoding="utf-8"))
    config = config.get("image_processor", config)
    if config.get("do_normalize") is False:
        return list(PLAIN_MEAN), list(PLAIN_STD)
    mean, std = config.get("image_mean"), config.get("image_std")
    for values in (mean, std):
        if values is not None and not (
            isinstance(values, list) and len(values) == 3 and all(isinstance(v, (int, float)) for v in values)
        ):
            raise ValueError(f"preprocessor_config.json has {values!r} for a mean or a deviation; expected 3 numbers")
    return mean, std


# OpenAI's own names of its models, as ``clip.available_models()`` has them.
OPENAI_NAMES = re.compile(r"(ViT-[BL]/\d+(@336px)?|RN\d+(x\d+)?)")


def _load_open_clip(name: str) -> LoadedModel:
    open_clip = _need("open_clip", "open_clip", f"open_clip:{name}")
    if name.startswith(("hf-hub:", "local-dir:")):
        return _load_open_clip_folder(open_clip, name)
    arch, separator, weights = name.partition("@" if "@" in name else "/")
    known = open_clip.list_models()
    if OPENAI_NAMES.fullmatch(name) and (name not in known):
        ours = name.replace("/", "-").replace("@336px", "-336")
        raise ModelLoadError(f"open_clip:{name} is OpenAI's own name; expected open_clip:{ours}/openai.")
    if not separator or not weights:
        raise ModelLoadError(
            f"open_clip:{name} does not say which weights; expected open_clip:ARCH/PRETRAINED, for instance "
            "open_clip:ViT-B-16/openai, open_clip:ARCH@FILE for a checkpoint on disk, open_clip:hf-hub:OWNER/NAME or "
            "open_clip:local-dir:FOLDER."
        )
    if arch not in known:
        raise ModelLoadError(str(unknown_name("open_clip architecture", arch, known)))
    path = Path(weights).expanduser()
    if separator == "@" and not path.is_file():
        raise ModelLoadError(f"open_clip:{name}: no such file: {weights}")
    tags = open_clip.list_pretrained_tags_by_model(arch)
    if separator == "/" and weights not in tags:
        raise ModelLoadError(str(unknown_name(f"pretrained weights of {arch}", weights, tags)))
    try:
        if separator == "@":
            with _as_safetensors(path) as safe:
                model, _, transform = open_clip.create_model_and_transforms(arch, pretrained=str(safe))
        else:
            model, _, transform = open_clip.create_model_and_transforms(arch, pretrained=weights)
        tokenizer = open_clip.get_tokenizer(arch)
    except Exception as error:  # whatever the hub's client or a broken file raises
        raise _cannot_fetch(f"open_clip:{name}", error) from error
    mean, std = _mean_std(transform)
    return LoadedModel(model, tokenizer, mean, std)


def _load_open_clip_folder(open_clip: Any, name: str) -> LoadedModel:
    """A model as open_clip publishes it: ``open_clip_config.json`` beside weights and tokenizer, on a hub or disk."""
    where, _, place = name.partition(":")
    if where == "local-dir":
        folder = Path(place).expanduser()
        if not (folder / "open_clip_config.json").is_file():
            raise ModelLoadError(
                f"open_clip:{name}: {place} holds no open_clip_config.json; expected a folder as open_clip's "
                "push_to_hf_hub writes it, with the config, weights and tokenizer."
            )
        name = f"local-dir:{folder}"
    try:
        model, _, transform = open_clip.create_model_and_transforms(name)
        tokenizer = open_clip.get_tokenizer(name)
    except Exception as error:  # whatever the hub's client or a broken file raises
        raise _cannot_fetch(f"open_clip:{name}", error) from error
    mean, std = _mean_std(transform)
    return LoadedModel(model, tokenizer, mean, std)


@contextlib.contextmanager
def _as_safetensors(path: Path) -> Iterator[Path]:
    """A checkpoint as a file that can hold nothing but tensors, whatever its name says; nothing in it is run.

    open_clip goes by a file's suffix, and its older releases unpickle what has another one.
    """
    with open(path, "rb") as file:
        head = file.read(9)
    if head[8:] == b"{":
        state = safetensors.torch.load_file(path)
        if path.suffix == ".safetensors":
            yield path
            return
    else:
        state = torch.load(path, map_location="cpu", weights_only=True)
        for wrapper in ("state_dict", "model"):
            state = state[wrapper] if isinstance(state.get(wrapper), dict) else state
    tensors = {key: value for key, value in state.items() if isinstance(value, torch.Tensor)}
    state = {key.removeprefix("module."): value.contiguous().clone() for key, value in tensors.items()}
    if not state:
        raise ValueError("it holds no tensors by name")
    with tempfile.TemporaryDirectory(prefix="sclip-") as folder:
        safe = Path(folder) / "weights.safetensors"
        safetensors.torch.save_file(state, safe)
        yield safe


def _mean_std(transform: Any) -> tuple[Sequence[float] | None, Sequence[float] | None]:
    """Of a torchvision transform's Normalize."""
    for step in getattr(transform, "transforms", []):
        if hasattr(step, "mean") and hasattr(step, "std"):
            return [float(v) for v in step.mean], [float(v) for v in step.std]
    return None, None


class TimmCLIP(nn.Module):
    """An image tower of timm beside the text tower that it was trained with.

    Attributes:
        visual: the timm model, whose head projects into the joint space.
        text: open_clip's model without its image tower.
    """

    def __init__(self, visual: nn.Module, text: nn.Module) -> None:
        super().__init__()
        self.visual = visual
        self.text = text


def timm_text_tower(name: str) -> tuple[str, str]:
    """open_clip's (architecture, pretrained tag) of the text tower that a timm CLIP model was trained with.

    Raises:
        ModelLoadError: not a CLIP image tower, or weights fine-tuned away from their text tower.

    >>> timm_text_tower("vit_base_patch16_clip_224.openai")
    ('ViT-B-16-quickgelu', 'openai')
    """
    table = json.loads(package_files("sclip_plugin").joinpath("data/timm_text_towers.json").read_text())
    match = re.fullmatch(r"vit_(\w+?)_patch(\d+)(_plus)?_clip_(?:quickgelu_)?(\d+)\.(\w+)", name)
    if match:
        size, patch, plus, pixels, tag = match.groups()
        arch = f"{table['sizes'].get(size, size)}-{patch}" + ("-plus" if plus else "")
        tags = table["weights"].get(tag, {})
        entry = tags.get(f"{arch}-{pixels}") or tags.get(arch)
        if entry:
            return entry[0], entry[1]
    known = "vit_base_patch16_clip_224.openai, vit_large_patch14_clip_224.laion2b, vit_base_patch16_clip_224.dfn2b"
    raise ModelLoadError(
        f"timm:{name} has no text tower that is known here. What works are timm's CLIP image towers with the weights "
        f"they were trained with beside their text (not those fine-tuned on ImageNet), such as {known}."
    )


def _load_timm(name: str) -> LoadedModel:
    timm = _need("timm", "timm", f"timm:{name}")
    open_clip = _need("open_clip", "timm", f"timm:{name}")
    arch, tag = timm_text_tower(name)
    try:
        visual = timm.create_model(name, pretrained=True)
        text = open_clip.create_model(arch, pretrained=tag)
    except Exception as error:  # whatever the hubs' clients raise
        raise _cannot_fetch(f"timm:{name}", error) from error
    text.visual = None
    config = visual.pretrained_cfg
    return LoadedModel(TimmCLIP(visual, text), open_clip.get_tokenizer(arch), config["mean"], config["std"])


def _need(module: str, extra: str, name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ModelLoadError(
            f"model '{name}' needs {module}, which is not installed: pip install \"sclip_plugin[{extra}]\"."
        ) from error


def _cannot_fetch(name: str, error: Exception) -> ModelLoadError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0].partition(". ")[0].rstrip(".")
    hint = ""
    if OPENAI_NAMES.fullmatch(name):
        hint = f" {name} is OpenAI's own name: open_clip:{name.replace('/', '-')}/openai."
    elif difflib.get_close_matches(name.lower(), [DEMO], cutoff=0.7):
        hint = f" Did you mean '{DEMO}'?"
    return ModelLoadError(
        f"the model '{name}' could not be fetched or read.{hint} A local folder works (as save_pretrained writes it), "
        f"and '{DEMO}' works now. The reason given: {reason[:300]}."
    )

"""``sclip presets`` and ``sclip models``: lists of names, one per line."""

from __future__ import annotations

import json
from collections.abc import Iterator

from ..defaults import DEFAULT_MODEL
from .terminal import AsJson, say, tell


def presets(as_json: AsJson = False) -> None:
    """List the presets: each holds the settings of a paper for a benchmark, and often its classes.

    Example: sclip presets
    """
    from ..protocols.presets import list_presets, load_preset

    for name in list_presets():
        preset = load_preset(name)
        method = preset.settings.plain()["method"]
        say(json.dumps({"preset": name, "method": method}) if as_json else f"{name:<36} {method}")


def models(as_json: AsJson = False) -> None:
    """List model names for --model: the demo, and the models of open_clip if it is installed.

    --model also takes any hub id or folder of transformers. Weights are downloaded at the first use. A model that can't
    be patched is refused then.

    Example: sclip models
    """
    for name, source in _names():
        say(json.dumps({"model": name, "source": source}) if as_json else f"{name:<68} {source}")


def _names() -> Iterator[tuple[str, str]]:
    yield "demo", "ships with sclip_plugin; knows drawn things only"
    yield DEFAULT_MODEL, "transformers; the default"
    try:
        import open_clip
    except ImportError:
        tell("those of open_clip are not listed: pip install 'sclip_plugin[open_clip]'")
        return
    for architecture, weights in open_clip.list_pretrained():
        yield f"open_clip:{architecture}/{weights}", "open_clip"

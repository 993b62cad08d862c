"""Which models of open_clip, timm and transformers work: the image tower of every name, and its words.

    python benchmarks/families.py [--timm] [--transformers]

open_clip's image towers are built without weights on the meta device, at their own size: `csa` must give a feature of
the joint width for every patch, or the model is refused in a sentence. That the numbers are right is what tests/towers
shows, for one model of each structure. Words are compared in numbers (families_words.py), and so is all of timm and of
transformers (families_numbers.py; timm takes a quarter of an hour on two cores).
"""

from __future__ import annotations

import argparse
import collections
import sys
import warnings
from pathlib import Path

import torch

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "tests")]


def image_of(model: torch.nn.Module, size: tuple[int, int]) -> str:
    """``"right (TOWER)"``, or why it is refused; what is neither is said in capitals."""
    import sclip_plugin as sp
    from sclip_plugin.errors import SclipError

    try:
        tower = sp.find_tower(model)
        method = "csa" if tower.attends else "vanilla"
        features = sp.dense_features(tower, torch.zeros(1, 3, *size, device="meta"), method, allow_remainder=True)
    except SclipError as error:
        return f"refused: {str(error).splitlines()[0][:110]}"
    except Exception as error:  # what a table is for
        return f"BROKEN: {type(error).__name__}: {error}"
    grid = tuple(side // patch for side, patch in zip(size, tower.patch_size, strict=True))
    return f"right ({tower.name})" if tuple(features.shape[2:]) == grid else f"BROKEN: {tuple(features.shape)}"


def open_clip_table() -> dict[str, str]:
    import open_clip
    from text.open_clip_models import NAMES, config

    table = {}
    for name in NAMES:
        cfg = config(name)
        cfg.pop("custom_text", None)
        text = {"context_length": 8, "vocab_size": 50, "width": 32, "heads": 2, "layers": 1}
        is_coca = "multimodal_cfg" in cfg
        custom = open_clip.get_model_config(name).get("custom_text") or "hf_model_name" in cfg["text_cfg"]
        cls = open_clip.CoCa if is_coca else open_clip.CustomTextCLIP if custom else open_clip.CLIP
        with torch.device("meta"):
            model = cls(**{**cfg, "text_cfg": text}).eval()
        size = cfg["vision_cfg"].get("image_size", 224)
        table[name] = image_of(model, (size, size) if isinstance(size, int) else tuple(size))
    return table


def show(title: str, table: dict[str, str]) -> None:
    for name, said in table.items():
        if not said.startswith(("right", "exact")):
            print(f"{name}: {said}")
    counts = collections.Counter(said.split()[0].rstrip(":") for said in table.values())
    print(f"{title}, {len(table)} names: " + ", ".join(f"{kind} {count}" for kind, count in counts.most_common()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--timm", action="store_true", help="timm's CLIP-like names, too")
    parser.add_argument("--transformers", action="store_true", help="transformers' dual encoders, too")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    from families_numbers import timm_table, transformers_table
    from families_words import words_table

    image = open_clip_table()
    show("open_clip, image", image)
    words = words_table()
    both = sum(image[name].startswith("right") and words[name].startswith("exact") for name in image)
    wrong = sum(said.startswith("WRONG") for said in words.values())
    print(f"open_clip, words: exact {sum(said.startswith('exact') for said in words.values())}, wrong {wrong}")
    print(f"open_clip, image and words both right: {both} of {len(image)}")
    with torch.no_grad():
        if options.timm:
            show("timm, image", timm_table())
        if options.transformers:
            image, words = transformers_table()
            show("transformers, image", image)
            show("transformers, words", words)


if __name__ == "__main__":
    main()

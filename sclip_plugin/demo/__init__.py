"""The small CLIP that ships with the package, and the scenes it was trained and is measured on.

Importing this module imports neither torch nor transformers.
"""

import pathlib

from sclip_plugin.demo.scenes import HELD_OUT_FIRST_SEED, Scene, draw_scene, held_out_scenes
from sclip_plugin.demo.sprites import CLASSES, GROUNDS, THINGS
from sclip_plugin.errors import ModelLoadError

__all__ = [
    "CLASSES",
    "GROUNDS",
    "HELD_OUT_FIRST_SEED",
    "MODEL_DIR",
    "THINGS",
    "Scene",
    "demo_model",
    "draw_scene",
    "held_out_scenes",
]

MODEL_DIR = pathlib.Path(__file__).parent / "model"


def demo_model():
    """Where the shipped checkpoint is: a folder for transformers' CLIPModel, CLIPTokenizer and CLIPImageProcessor.

    Returns:
        str, path of the folder.

    Raises:
        ModelLoadError: the weights are not there, as in a checkout without its large files.

    Example:
        >>> from transformers import CLIPModel
        >>> model = CLIPModel.from_pretrained(demo_model())
    """
    if not (MODEL_DIR / "model.safetensors").is_file():
        raise ModelLoadError(
            f"the demo's weights are not at {MODEL_DIR / 'model.safetensors'}; reinstall sclip_plugin, "
            f"or train them: python -m sclip_plugin.demo.training.train --out DIR, then copy DIR/model to {MODEL_DIR}"
        )
    return str(MODEL_DIR)

"""Caption retrieval: does the demo's CLIP tell which of 100 captions belongs to a scene that it never saw?

`python -m sclip_plugin.demo.training.retrieval` prints the shares over 200 held-out scenes, in galleries of 100;
chance is 1 %.
"""

import argparse

import numpy as np

from sclip_plugin.demo import demo_model
from sclip_plugin.demo.scenes import held_out_scenes


def retrieval(folder, scenes=200, gallery=100):
    """Measure how often a scene's own caption, and a caption's own scene, is the most similar one of its gallery.

    Args:
        folder: transformers checkpoint folder with its tokenizer and preprocessing.
        scenes: how many held-out scenes; a multiple of `gallery`.
        gallery: how many scenes and captions are compared with one another at a time.

    Returns:
        dict with "caption_of_scene" and "scene_of_caption", shares in [0, 1]; equal captions count as one.

    Raises:
        ValueError: `scenes` is no multiple of `gallery`.

    Example:
        >>> retrieval(demo_model())["caption_of_scene"] > 0.5
        True
    """
    import torch
    from transformers import CLIPModel, CLIPProcessor

    if scenes < gallery or scenes % gallery:
        raise ValueError(f"{scenes} scenes do not fill galleries of {gallery}; give a multiple of {gallery}")
    model, processor = CLIPModel.from_pretrained(folder).eval(), CLIPProcessor.from_pretrained(folder)
    drawn, hits = list(held_out_scenes(scenes)), np.zeros(2)
    for first in range(0, scenes, gallery):
        part = drawn[first : first + gallery]
        captions = np.array([scene.caption for scene in part])
        inputs = processor(
            text=list(captions),
            images=[scene.picture for scene in part],
            return_tensors="pt",
            padding=True,
            truncation=True,
            max_length=model.config.text_config.max_position_embeddings,
        )
        with torch.no_grad():
            similarity = model(**inputs).logits_per_image
        hits += [(captions[similarity.argmax(axis)] == captions).sum() for axis in (1, 0)]
    return dict(zip(("caption_of_scene", "scene_of_caption"), (hits / scenes).tolist(), strict=True))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="checkpoint folder (default: the shipped one)")
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--gallery", type=int, default=100)
    options = parser.parse_args()
    shares = retrieval(options.model or demo_model(), options.scenes, options.gallery)
    for name, share in shares.items():
        print(f"{name.replace('_', ' '):18s} {100 * share:.1f} % of {options.scenes}, among {options.gallery}")

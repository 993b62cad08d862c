"""Wording of the demo's captions: what is there, said in many ways."""

from sclip_plugin.demo.sprites import GROUNDS, SYNONYMS

_OPENINGS = (
    "", "", "a photo of {}", "a photo of {}", "a picture of {}", "a bad photo of {}", "a good photo of {}",
    "itap of {}", "a photo of many {}", "a sculpture of {}", "a rendering of {}", "graffiti of {}",
    "a cropped photo of {}", "art of {}", "a close-up photo of {}", "a drawing of {}",
    "a pixelated photo of {}", "a jpeg corrupted photo of {}", "a plastic {}", "a low resolution photo of {}",
    "a black and white photo of {}", "a toy {}", "a painting of {}", "a cartoon {}", "{} in the scene",
    "a blurry photo of {}", "a doodle of {}", "a tattoo of {}", "an embroidered {}", "an origami {}",
    "a {} in a video game", "the {} in a video game", "there is {} in the scene", "this is {}",
    "this is {} in the scene", "here is {}", "look, {}", "a scene with {}", "we see {}", "an image of {}",
    "a photo of one {}", "a plushie {}", "a sketch of {}", "a dark photo of {}", "a bright photo of {}",
    "a photo of a hard to see {}", "one of {}", "one {} in the scene",
)  # fmt: skip
_ADJECTIVES = ("small", "large", "big", "little", "nice", "clean", "dirty", "weird", "cool", "colorful", "old", "new")
_ON = ("on", "on", "over", "in front of", "in a world of", "with", "and", "against", "near", "at")


def _phrase(name, rng):
    """One thing or ground with an article, perhaps an adjective, perhaps a synonym."""
    other = SYNONYMS[name]
    word = other[rng.integers(len(other))] if other and rng.random() < 0.15 else name
    if rng.random() < 0.12:
        word = f"{_ADJECTIVES[rng.integers(len(_ADJECTIVES))]} {word}"
    article = rng.random()
    if article < (0.55 if name in GROUNDS else 0.2):
        return word
    if article < (0.8 if name in GROUNDS else 0.4):
        return f"the {word}"
    return f"an {word}" if word[0] in "aeiou" else f"a {word}"


def caption(names, rng):
    """Word a caption that names exactly `names`.

    Args:
        names: names out of CLASSES, at least one, in the order in which they will be said; grounds last.
        rng: numpy Generator that chooses the wording.

    Returns:
        str, in lower case, such as "a photo of a cat, a bus and the tree on grass".
    """
    things = [_phrase(name, rng) for name in names if name not in GROUNDS]
    grounds = [_phrase(name, rng) for name in names if name in GROUNDS]
    joint = ("and", "and", "with", "next to", ",")[rng.integers(5)]
    text = (", ".join(things[:-1]) + f" {joint} " if len(things) > 1 else "") + things[-1] if things else ""
    if grounds:
        below = " and ".join(grounds)
        text = f"{text} {_ON[rng.integers(len(_ON))]} {below}" if text else below
    opening = _OPENINGS[rng.integers(len(_OPENINGS))]
    text = opening.format(text) if opening else text
    return (text + ("." if rng.random() < 0.4 else "")).replace(" ,", ",")


def draw_names(things, grounds, rng, ground_rate=0.2):
    """Choose what a training caption names: a random part of what is there.

    Args:
        things, grounds: names present in the scene.
        rng: numpy Generator.
        ground_rate: how often a ground is named.

    Returns:
        list of names, things first; never empty.
    """
    named = []
    if things and not (grounds and rng.random() < 0.4 * ground_rate):
        named = list(rng.permutation(things)[: rng.integers(1, len(things) + 1)])
    if grounds and (not named or rng.random() < ground_rate):
        named.append(grounds[rng.integers(len(grounds))])
    return [str(name) for name in named]

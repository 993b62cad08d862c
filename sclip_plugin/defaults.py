"""What is taken where nothing else is said: constants that several rooms share."""

DEFAULT_MODEL = "openai/clip-vit-base-patch16"
"""The model that is used where none is named."""

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
"""How CLIP's pictures are normalised, for values 0 to 1."""

PAMR_STEPS = 10
"""Steps of PAMR in the papers that use it, and of ``--refine``."""
PLAIN_MEAN, PLAIN_STD = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
"""Of models that read values from 0 to 1 as they are."""

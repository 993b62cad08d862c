"""Every array of the golden files that a method alone gives, on every framework, within 1e-5 of its magnitude."""

from __future__ import annotations

from functools import cache

import golden
import pytest
import torch
import torch.nn.functional as F

import sclip_plugin as sp
from sclip_plugin.methods import make_method
from sclip_plugin.towers import find_tower

TOLERANCE = 1e-5  # at most 1.4e-6 was measured, on ResCLIP's logits; 7e-7 on tokens
PLAIN = dict(residual=False, ffn=False)
FULL = dict(residual=True, ffn=True)

# Array names without their size, to (method, options). Arrays named tokens have CLS in front, those named patches not.
TOKENS = {
    "SCLIP": {name: (name, {}) for name in ("csa", "vanilla")},
    "ClearCLIP": {
        f"{name}.{kind}": (name, options)
        for name in ("vanilla", "maskclip", "csa", "clearclip")
        for kind, options in (("residual", FULL), ("no_residual", PLAIN))
    },
    "NACLIP": {
        f"{name}.{kind}": (name, options)
        for name in ("naclip", "kk", "csa", "vanilla")
        for kind, options in (("with_residual", FULL), ("without_residual", PLAIN))
        if (name, kind) != ("csa", "without_residual")
    },
    "GEM": {
        "gem.depth7": ("gem", {}),
        "gem_untouched_path.depth7": ("vanilla", {"position_resize": "size_antialias"}),
    },
    "SC-CLIP": {"scclip": ("scclip", {})},
    "PEARL": {
        "pearl": ("pearl", {}),
        "alpha0.3": ("pearl", {"alpha": 0.3}),
        "no_kk": ("pearl", {"alpha": 0.0}),
        "iters8": ("pearl", {"iterations": 8}),
        "with_residual": ("pearl", FULL),
    },
    "CLIP-Surgery": {"surgery": ("surgery", {})},
    "ExCEL": {"excel": ("excel", {})},
    "ITACLIP": {
        "itaclip": ("itaclip", {}),
        "itaclip_ordinary_attention": ("itaclip", {"maps": "ordinary"}),
    },
}
SQUARE = {"SC-CLIP": ("112x112", "144x144"), "CLIP-Surgery": ("112x112", "144x144"), "ExCEL": ("112x112", "144x144")}
SQUARE["PEARL"] = ("112x112",)
ROWS = [
    (file, f"{row}.{size}", *method)
    for file, rows in TOKENS.items()
    for row, method in rows.items()
    for size in SQUARE.get(file, golden.SIZES)
]
# What other tests compare: of segmenters, and of what stands behind a method.
ELSEWHERE = (
    "segmentor", "pamr", "text", "token_embedding", "window_logits", "probs", "labels", "cluster_bank", "excel_learnt",
    *(f"surgery.{size}.{what}" for size in SQUARE["CLIP-Surgery"] for what in ("sim", "map", "point")),
    *(f"excel.{size}.{what}" for size in SQUARE["ExCEL"] for what in ("feat", "maps", "mean", "trans", "refined")),
    "surgery.80x80",
)  # fmt: skip
RESCLIP = [
    (base, rcs, sfr) for base in ("naclip", "csa", "clearclip", "vanilla") for rcs, sfr in ((1, 0), (0, 1), (1, 1))
]

every_framework = pytest.mark.parametrize("framework", golden.FRAMEWORKS)


@cache
def tower(framework: str):
    return find_tower(golden.model(framework))


def last_block(framework: str, pixels, method):
    return method.reach_last_block(tower(framework), pixels)


@every_framework
@pytest.mark.parametrize(("file", "row", "name", "options"), ROWS, ids=[f"{row[0]}-{row[1]}" for row in ROWS])
def test_tokens(framework, file, row, name, options):
    pixels = golden.arrays("inputs")[f"pixels.{row.rsplit('.', 1)[1]}"]
    method = make_method(name, options)
    block, context = last_block(framework, pixels, method)
    ours = context.project(method(block, context))
    if f"{row}.tokens" in golden.arrays(file):
        theirs = golden.arrays(file)[f"{row}.tokens"]
    else:
        ours, theirs = ours[:, context.prefix_tokens :], golden.arrays(file)[f"{row}.patches"]
    # SC-CLIP's code takes one picture at a time; ours gives the first one's patches from a batch of two.
    assert golden.relative_difference(ours[: len(theirs)], theirs) < TOLERANCE


@every_framework
@pytest.mark.parametrize("size", golden.SIZES)
def test_attention_map_of_csa(framework, size):
    csa = make_method("csa")
    block, _ = last_block(framework, golden.arrays("inputs")[f"pixels.{size}"], csa)
    maps = sum((block.scale * a @ b.mT).softmax(dim=-1) for a, b in csa.similarities(block))
    theirs = golden.arrays("SCLIP")[f"csa.{size}.attention_first_head"]
    assert golden.relative_difference(maps[:1, 0], theirs) < TOLERANCE


@every_framework
@pytest.mark.parametrize(("base", "rcs", "sfr"), RESCLIP)
def test_logits_of_resclip(framework, base, rcs, sfr):
    """The tower sees 11 x 14 whole patches; the first pass labels the pixels of the picture as it is, 180 x 236."""
    scene, text = golden.arrays("inputs")["scene"], golden.arrays("SCLIP")["text_bank"]
    method = make_method(
        "resclip",
        dict(
            base=make_method(base, FULL if base == "csa" else PLAIN),
            rcs=(2.0, 0.3) if rcs else None,
            sfr=(2.2, 0.7) if sfr else None,
            sfr_threshold=0.15,
            logit_scale=40.0,
            text=text if sfr else None,
        ),
    )
    features = F.normalize(sp.dense_features(tower(framework), scene, method, allow_remainder=True), dim=1)
    logits = torch.einsum("bdhw,kd->bkhw", features, text)
    logits = F.interpolate(logits, size=scene.shape[-2:], mode="bilinear", align_corners=False)
    theirs = golden.arrays("ResCLIP")[f"{base}.rcs{rcs}.sfr{sfr}.logits.every4"]
    assert golden.relative_difference(golden.every_fourth(logits), theirs) < TOLERANCE


def test_every_array_is_compared():
    compared = {(file, row) for file, row, *_ in ROWS}
    for file in (*TOKENS, "ResCLIP"):
        for name in golden.arrays(file):
            if file == "ResCLIP":
                base, rcs, sfr = name.removesuffix(".logits.every4").split(".")
                assert (base, int(rcs[3:]), int(sfr[3:])) in RESCLIP
            elif not name.startswith(ELSEWHERE):
                row = name.removesuffix(".tokens").removesuffix(".patches").removesuffix(".attention_first_head")
                assert (file, row) in compared, name

"""Train the demo's CLIP on drawn scenes and their captions; no mask is used.

`python -m sclip_plugin.demo.training.train --out DIR` starts, the same with `--resume` goes on from DIR/state.pt. A
step's data depend on (seed, step) alone, so an interrupted run ends in the weights of an uninterrupted one.

Two losses: CLIP's, of pictures and captions; and one of patches and the words of the captions, in which patches are
read as `csa` reads them (`network.word_loss`).
"""

import argparse
import dataclasses
import json
import math
import pathlib
import shutil
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from sclip_plugin.demo.scenes import WINDOW
from sclip_plugin.demo.training.batches import draw_batch, draw_words
from sclip_plugin.demo.training.network import (
    MEAN,
    PATCH,
    STD,
    build_model,
    contrastive_loss,
    image_embeddings,
    normalise,
    text_embeddings,
    word_loss,
)
from sclip_plugin.demo.training.tokenizer import POSITIONS

SCHEDULE = ("steps", "small_steps", "final_steps")  # fields of Recipe that a resumed run may change
TOKENIZER_FILES = ("vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json")


@dataclasses.dataclass
class Recipe:
    """Everything a run depends on; each field is an option of the command line.

    A batch is trained on in `shards` equal parts, one thread each, whose gradients are averaged. The first
    `small_steps` see scenes `small` pixels wide of at most `small_things` things, anywhere on the model's grid: what
    things look like and are called is learnt sooner and cheaper where little else is. After them, batches have
    `large_batch` scenes of the model's size, of whose patches a random share `keep` is seen. In a share `ground_rate`
    of the captions a ground is named; `words` weighs the loss of words. In the last `final_steps` the learning rate
    falls; before them nothing depends on `steps`, so a run can be resumed with more of them.
    """

    steps: int = 3000
    small_steps: int = 2000
    batch: int = 256
    large_batch: int = 128
    shards: int = 2
    width: int = 128
    depth: int = 4
    head: int = 32
    text_width: int = 128
    text_depth: int = 2
    joint: int = 128
    lr: float = 1.5e-3
    weight_decay: float = 0.1
    warmup: int = 80
    small: int = 48
    small_things: int = 1
    keep: float = 0.5
    final_steps: int = 400
    ema: float = 0.998
    ground_rate: float = 0.2
    words: float = 1.0
    seed: int = 0


def learning_rate(recipe, step):
    """Linear warm-up, then level, then linearly down to nothing over the final steps."""
    return recipe.lr * min((step + 1) / max(1, recipe.warmup), 1.0, (recipe.steps - step) / max(1, recipe.final_steps))


def scenes_seen(recipe, steps):
    """How many scenes a run has seen after so many steps."""
    small = min(steps, recipe.small_steps)
    return small * recipe.batch + (steps - small) * recipe.large_batch


def make_optimizer(model, recipe):
    """AdamW that decays matrices only."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=recipe.lr, betas=(0.9, 0.98), eps=1e-6)


def _shard_gradients(model, recipe, step, shard, tokenize):
    """Two losses and the gradients (in the order of `model.parameters()`) of one part of a step's batch."""
    draw = step * recipe.shards + shard
    generator = torch.Generator().manual_seed(recipe.seed * 10**7 + draw)
    grid, places, kept = WINDOW // PATCH, None, None
    if step < recipe.small_steps:
        scenes, side = recipe.batch // recipe.shards, torch.arange(recipe.small // PATCH)
        batch = draw_batch(recipe.seed, draw, scenes, recipe.small, recipe.small_things, recipe.ground_rate)
        corner = torch.randint(grid - len(side) + 1, (scenes, 2), generator=generator)
        rows, columns = corner[:, :1] + side, corner[:, 1:] + side
        places = (rows[:, :, None] * grid + columns[:, None, :]).flatten(1)
    else:
        scenes = recipe.large_batch // recipe.shards
        batch = draw_batch(recipe.seed, draw, scenes, ground_rate=recipe.ground_rate)
        if recipe.keep < 1:
            kept = torch.rand(scenes, grid**2, generator=generator).argsort(1)[:, : int(recipe.keep * grid**2)]
    pictures, captions, also_true, present = batch
    # Without the cache of cast weights, which threads share: with it, a step depends on how they take turns.
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        images = image_embeddings(model, normalise(pictures), places, kept)
        texts = text_embeddings(model, tokenize(captions + draw_words(recipe.seed, draw)))
    scale = model.logit_scale.exp()
    of_captions = contrastive_loss(scale * images[:, 0] @ texts[:scenes].T, torch.from_numpy(also_true))
    of_words = word_loss(scale * images[:, 1:] @ texts[scenes:].T, torch.from_numpy(present))
    gradients = torch.autograd.grad(of_captions + recipe.words * of_words, list(model.parameters()))
    return (of_captions.item(), of_words.item()), gradients


def train_step(model, optimizer, recipe, step, tokenize, pool):
    """One optimisation step, a function of weights, optimizer and (seed, step) alone; returns the two losses."""
    parts = list(pool.map(lambda shard: _shard_gradients(model, recipe, step, shard, tokenize), range(recipe.shards)))
    for index, parameter in enumerate(model.parameters()):
        parameter.grad = sum(gradients[index] for _, gradients in parts) / recipe.shards
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(recipe, step)
    optimizer.step()
    with torch.no_grad():
        model.logit_scale.clamp_(max=math.log(100))
    return np.mean([losses for losses, _ in parts], 0)


def make_tokenize(folder):
    """The batch tokenizer of a folder: list of str -> (B, L) int64 ids, padded with the end-of-text token."""
    from transformers import CLIPTokenizerFast  # type: ignore[attr-defined]

    tokenizer = CLIPTokenizerFast.from_pretrained(folder)
    return lambda texts: tokenizer(
        texts, padding=True, truncation=True, max_length=POSITIONS, return_tensors="pt"
    ).input_ids  # fmt: skip


def save_checkpoint(model, averaged, tokenizer_folder, folder):
    """Write the averaged weights as a transformers checkpoint with its tokenizer and preprocessing."""
    from transformers import CLIPImageProcessor

    current = {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(averaged)
    model.save_pretrained(folder)
    model.load_state_dict(current)
    for name in TOKENIZER_FILES:
        if pathlib.Path(tokenizer_folder) != pathlib.Path(folder):
            shutil.copy(pathlib.Path(tokenizer_folder) / name, folder)
    square = {"height": WINDOW, "width": WINDOW}
    CLIPImageProcessor(
        size={"shortest_edge": WINDOW}, crop_size=square, image_mean=list(MEAN), image_std=list(STD)
    ).save_pretrained(folder)  # fmt: skip


def train(recipe, out, tokenizer_folder, resume=False, save_minutes=4.0, stop_after=None, log=print):
    """Train, checkpointing to `out`/state.pt and, as a transformers folder, `out`/model.

    Args:
        recipe: Recipe.
        out: folder, made if absent.
        tokenizer_folder: folder with the tokenizer's files.
        resume: go on from `out`/state.pt; its recipe must be the given one, but for SCHEDULE.
        save_minutes: time between checkpoints.
        stop_after: stop after this step as an interruption would, having saved.
        log: called with a line of text.

    Returns:
        the trained CLIPModel, holding the last weights (the averaged ones are in `out`/model).

    Raises:
        FileNotFoundError: nothing to resume.
        ValueError: the state to resume is of another recipe.
    """
    out = pathlib.Path(out)
    out.mkdir(parents=True, exist_ok=True)
    tokenize = make_tokenize(tokenizer_folder)
    vocabulary = len(json.loads((pathlib.Path(tokenizer_folder) / "vocab.json").read_text(encoding="utf-8")))
    model = build_model(recipe, vocabulary).train()
    optimizer, first = make_optimizer(model, recipe), 0
    averaged = {name: value.clone() for name, value in model.state_dict().items()}
    state_file = out / "state.pt"
    if resume:
        if not state_file.exists():
            raise FileNotFoundError(f"no {state_file} to resume from; start without --resume")
        state = torch.load(state_file, weights_only=True)
        if state["recipe"] | {name: getattr(recipe, name) for name in SCHEDULE} != dataclasses.asdict(recipe):
            raise ValueError(f"{state_file} is of {state['recipe']}, but {recipe} was asked for; give the same options")
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        averaged, first = state["averaged"], state["step"]

    def save(step):
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "averaged": averaged}
        torch.save(state | {"step": step, "recipe": dataclasses.asdict(recipe)}, state_file.with_suffix(".new"))
        state_file.with_suffix(".new").replace(state_file)  # never a half-written state
        save_checkpoint(model, averaged, tokenizer_folder, out / "model")

    began = saved = time.time()
    losses, pool = [], ThreadPoolExecutor(recipe.shards)
    for step in range(first, recipe.steps):
        losses.append(train_step(model, optimizer, recipe, step, tokenize, pool))
        decay = min(recipe.ema, (step + 1) / (step + 10))
        with torch.no_grad():
            for name, value in model.state_dict().items():
                averaged[name].lerp_(value, 1 - decay)
        if (step + 1) % 50 == 0:
            of_captions, of_words = np.mean(losses, 0)
            log(
                f"step {step + 1} scenes {scenes_seen(recipe, step + 1)} "
                f"captions {of_captions:.4f} words {of_words:.4f} "
                f"scale {model.logit_scale.exp().item():.1f} lr {learning_rate(recipe, step):.2e} "
                f"{(step + 1 - first) / (time.time() - began):.2f} steps/s"
            )
            losses = []
        if stop_after is not None and step + 1 >= stop_after:
            break
        if time.time() - saved > 60 * save_minutes:
            save(step + 1)
            saved = time.time()
    save(step + 1 if recipe.steps > first else first)
    return model


def main(arguments=None):
    """The command line; every field of Recipe is an option."""
    from sclip_plugin.demo import MODEL_DIR

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True, help="folder for the checkpoint and the state to resume from")
    parser.add_argument("--resume", action="store_true", help="go on from OUT/state.pt")
    parser.add_argument("--stop-after", type=int, help="stop at this step, to be resumed")
    parser.add_argument("--tokenizer", default=str(MODEL_DIR), help="folder of the tokenizer (default: shipped)")
    for field in dataclasses.fields(Recipe):
        parser.add_argument("--" + field.name.replace("_", "-"), type=field.type, default=field.default)
    options = vars(parser.parse_args(arguments))
    torch.set_num_threads(1)  # the shards are the threads: whole steps wait for each other less than single operations
    out, resume, tokenizer_folder = options.pop("out"), options.pop("resume"), options.pop("tokenizer")
    stop_after = options.pop("stop_after")

    def log(line):
        print(line, flush=True)

    train(Recipe(**options), out, tokenizer_folder, resume, stop_after=stop_after, log=log)


if __name__ == "__main__":
    main()

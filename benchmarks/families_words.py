"""Are words right for every model of open_clip? Each name's text tower at small size, against its own ``encode_text``.

    python benchmarks/families_words.py

Random weights; stand-ins for tokenizers and configs that only a hub has. A line for each name that is not right, and
the counts.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

PROMPTS = ["cat", "a photo of a Fire Hydrant, red.", "a " + "long " * 20 + "text"]


def words_table() -> dict[str, str]:
    """For each name ``"exact (fast)"``, ``"exact (own)"``, ``"WRONG (cosine)"`` or why it is refused."""
    from text.open_clip_models import NAMES, build

    from sclip_plugin.errors import SclipError
    from sclip_plugin.text.towers import CausalTextTower, find_text_tower

    table = {}
    for name in NAMES:
        try:
            model, tokenizer = build.__wrapped__(name)
            tower = find_text_tower(model, tokenizer)
            with torch.inference_mode():
                given = F.normalize(tower.encode(tower.read(PROMPTS).tokens).float(), dim=-1)
                own = F.normalize(model.encode_text(tokenizer(PROMPTS)).float(), dim=-1)
            worst = (given * own).sum(dim=-1).min().item()
            way = "fast" if isinstance(getattr(tower, "chosen", tower), CausalTextTower) else "own"
            table[name] = f"exact ({way})" if worst > 1 - 1e-6 else f"WRONG (cosine {worst:.3f})"
        except SclipError as error:
            table[name] = f"refused: {str(error).splitlines()[0]}"
    return table


def main() -> None:
    warnings.simplefilter("ignore")
    table = words_table()
    for name, said in table.items():
        if not said.startswith("exact"):
            print(f"{name}: {said}")
    counts = {kind: sum(said.startswith(kind) for said in table.values()) for kind in ("exact", "WRONG", "refused")}
    fast = sum(said == "exact (fast)" for said in table.values())
    print(f"{len(table)} names: words exact {counts['exact']} ({fast} by the fast way), wrong {counts['WRONG']}, "
          f"refused {counts['refused']}")  # fmt: skip


if __name__ == "__main__":
    main()

"""Does every formula of methods and steps, and every rule of the grammar, have a test that fails when it is changed?

    python tests/mutations.py [--only TEXT]

Each line of MUTATIONS changes one place in a copy of the source tree, and the tests of the methods run on the copy. A
mutation is killed where a test fails; one that survives is a formula that nothing holds. Exit code 1 if any survives.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# One framework first, all methods' tests only where that finds nothing.
QUICK = (
    *(
        f"tests/methods/test_{name}.py"
        for name in ("golden_parity", "gem", "second_path", "dinoiser", "resclip", "scclip")
    ),
    *(
        "tests/segmenter/test_refine.py",
        "tests/steps/test_seed_steps.py",
        "-k",
        "not openai and not timm and not custom and not open_clip",
    ),
)
TESTS = (
    "tests/methods",
    *(f"tests/segmenter/test_{name}.py" for name in ("refine", "golden_parity")),
    *(f"tests/steps/test_{name}.py" for name in ("lists", "decisions", "seed_steps", "freecp", "lposs", "clusters")),
    "tests/test_grammar.py",
)

A, B, G, R, S, P = (
    f"sclip_plugin/{path}.py"
    for path in (
        "methods/attention", "methods/base", "methods/gem", "methods/resclip", "methods/scclip", "imaging/refine",
    )
)  # fmt: skip
SEEDS = {
    "sclip_plugin/methods/second_path.py": [("after = [blocks[0].tokens]", "after = [blocks[-1].tokens]")],
    "sclip_plugin/methods/surgery.py": [
        ("field_of(6,", "field_of(5,"),
        ("field_of(5,", "field_of(6,"),
        ('"bilinear"', '"size"'),
        (".sum(dim=1) for z", ".mean(dim=1) for z"),
    ],
    "sclip_plugin/methods/itaclip.py": [
        ("field_of((7, 8, 10)", "field_of((7, 8, 9)"),
        ("field_of(0.5,", "field_of(0.4,"),
        ('projections: tuple[str, ...] = ("q", "k", "v")', 'projections: tuple[str, ...] = ("q", "k")'),
    ],
    "sclip_plugin/methods/dinoiser.py": [
        ("tokens = block.tokens + block.out(block.v)", "tokens = block.out(block.v)"),
        ("tap.norm2(tap.after_attention())", "tap.norm2(tap.tokens)"),
        ('mode="replicate"', 'mode="reflect"'),
        ("field_of(0.2,", "field_of(0.3,"),
    ],
    "sclip_plugin/steps/dinoiser.py": [("<= 0.5", "> 0.5"), ("field_of(0.99,", "field_of(0.1,")],
    "sclip_plugin/steps/surgery.py": [
        ("(2 * of_image)", "(of_image)"),
        ("threshold: float = 0.8", "threshold: float = 0.3"),
    ],
    "sclip_plugin/steps/excel.py": [
        ("DROPPED = 1 - 0.9", "DROPPED = 0.5"),
        ("NORMALISATIONS = 3", "NORMALISATIONS = 2"),
        ("*(m.sum(dim=1) for m in maps[1:])", "*(m.mean(dim=1) for m in maps[1:])"),
        ("int(rows.max()) + 1, h - 1", "int(rows.max()) + 1, h"),
    ],
    "sclip_plugin/steps/freecp.py": [
        ("SHOWN = 0.4", "SHOWN = 0.6"),
        ("agree > self.redundancy", "agree < self.redundancy"),
        ("given.at(given.size).full()", "given.at(given.cut).full()"),
    ],
    "sclip_plugin/steps/lposs.py": [
        ("merged(given.at(given.cut).full(),", "merged(given.at(given.size).full(),"),
    ],
    "sclip_plugin/steps/decisions.py": [
        ("~(areas > self.area * areas.sum())", "~(areas >= self.area * areas.sum())"),
        ("index.masked_fill(best < self.prob, 0)", "index.masked_fill(best <= self.prob, 0)"),
        ("(best < self.probability)", "(best <= self.probability)"),
        ("(best < self.cosine)", "(best <= self.cosine)"),
        ("normalised=True", "normalised=False"),
        ("labels = given.labels.copy()", "labels = given.labels"),
    ],
    "sclip_plugin/steps/scores.py": [
        ('tile if self.kind == "probability" else', 'tile if self.kind == "logit" else'),
        ('scored and not raw and self.kind != "probability"', "scored and not raw"),
    ],
    "sclip_plugin/steps/short.py": [
        ("isinstance(before, Threshold) else", "False else"),
        ("if value is False:", "if not value:"),
        ("rank(other) > rank(step)", "rank(other) < rank(step)"),
    ],
    "sclip_plugin/steps/registry.py": [("PLACES.index(before.on) > PLACES.index(after.on)", "False")],
    "sclip_plugin/grammar.py": [
        ("isinstance(call.func, ast.Name)", "True"),
        ("character == quote and not escaped", "character == quote"),
        ("if option in said:", "if False:"),
    ],
    "sclip_plugin/segment/views.py": [
        ("BLUR_SIGMA = 11, 5.0", "BLUR_SIGMA = 11, 4.0"),
        ("for axis in (2, 3)", "for axis in (2, 2)"),
    ],
}
"""The methods and steps of `docs/methods.md` that came later: each file with what is changed in it."""
MUTATIONS = [
    *((path, before, after) for path, changes in SEEDS.items() for before, after in changes),
    # file, what it says, what it is changed to
    (A, "return [(block.q, block.k)]", "return [(block.k, block.q)]"),
    (A, 'projections: tuple[str, ...] = ("q", "k")', 'projections: tuple[str, ...] = ("q", "q")'),
    (A, "return [(block.heads(r), block.heads(r)) for r in self.projections]",
        "return [(block.heads(r), block.k) for r in self.projections]"),
    (A, "residual: bool = False", "residual: bool = True"),
    (A, "ffn: bool = False", "ffn: bool = True"),
    (A, "return block.own_values\n", "return block.k\n"),
    (A, "return [(block.v, block.v)]", "return [(block.k, block.v)]"),
    (A, "return [(block.q, block.q)]", "return [(block.q, block.k)]"),
    (A, 'field_of(5.0, "σ of the Gaussian', 'field_of(4.9, "σ of the Gaussian'),
    (A, "over_rows = torch.exp(-((rows[:, None] - rows) ** 2) / (2 * std**2))",
        "over_rows = torch.exp(-((rows[:, None] - rows) ** 2) / std**2)"),
    (A, "over_rows[:, None, :, None] * over_columns", "over_rows[:, None, :, None] + over_columns"),
    (A, "(prefix_tokens, 0, prefix_tokens, 0)", "(0, prefix_tokens, 0, prefix_tokens)"),
    (B, "scale = block.scale * self.temperature", "scale = block.scale"),
    (B, "return sum(outputs[1:], outputs[0])", "return sum(outputs[1:], outputs[0]) / len(outputs)"),
    (B, "tokens = block.tokens + attended if self.residual else attended", "tokens = block.tokens + attended"),
    (B, "return tokens + block.ffn(tokens) if self.ffn else tokens", "return tokens"),
    (B, 'position_resize: PositionResize = "scale_factor"', 'position_resize: PositionResize = "size"'),
    (G, 'position_resize: PositionResize = "size_antialias"', 'position_resize: PositionResize = "scale_factor"'),
    (G, "field_of(7,", "field_of(6,"),
    (G, "field_of(1,", "field_of(2,"),
    (G, "tau = block.scale * block.x.norm(dim=-1).mean(dim=-1)", "tau = block.x.norm(dim=-1).mean(dim=-1)"),
    (G, "for z in (block.v, block.k, block.q)", "for z in (block.v, block.k, block.k)"),
    (G, "z = F.normalize(z, dim=-1)\n", "z = z\n"),
    (G, "total = total + attend(F.normalize(z, dim=-1), block.v)", "total = total + attend(z, block.v)"),
    (G, "return total / 3", "return total / 2"),
    (R, "field_of((2.0, 0.3)", "field_of((2.0, 0.4)"),
    (R, "field_of((2.2, 0.7)", "field_of((2.1, 0.7)"),
    (R, "field_of((6, 7, 8, 9)", "field_of((6, 7, 8)"),
    (R, "field_of(0.15,", "field_of(0.3,"),
    (R, "delete_same_entity: bool = True", "delete_same_entity: bool = False"),
    (R, "P = (lam * S).float()", "P = (lam * S.float())"),
    (R, "scale * tau * (1 - lam), tau * P", "scale * tau, tau * P"),
    (R, "attended = tau * ((1 - lam) * attended + lam * residual)", "attended = tau * attended + lam * residual"),
    (R, "[attention(e.q, e.k, v, e.scale) for e in earlier]", "[attention(e.q, e.q, v, e.scale) for e in earlier]"),
    (R, "S = (M / M.amax(dim=(-2, -1), keepdim=True)).half()", "S = M.half()"),
    (R, "F.pad(S, (prefix, 0, prefix, 0))", "F.pad(S, (prefix, 0, prefix, 0), value=1.0)"),
    (R, "labels.append(label.where(probability >= self.sfr_threshold, 0))", "labels.append(label)"),
    (R, "((self.logit_scale or 40.0) * logits)", "(10.0 * logits)"),
    (R, "M = M * torch.exp(-D / max(h - 1, w - 1, 1))", "M = M * torch.exp(-D / max(h, w, 1))"),
    (R, "return votes.argmax(dim=3)", "return votes.shape[3] - 1 - votes.flip(3).argmax(dim=3)"),
    (R, "up = (2 * rest > steps) | ((2 * rest == steps) & (below % 2 == 1))", "up = 2 * rest >= steps"),
    (R, "& (reach >= step)", "& (reach > step)"),
    (R, "sigma: float = 5.0", "sigma: float = 4.0"),
    (R, "int(6 * sigma + 1)", "int(4 * sigma + 1)"),
    (R, "M / (M.sum(dim=-1, keepdim=True) + 1e-8)", "M"),
    (R, "torch.maximum(by_rows", "torch.add(by_rows"),
    (S, "field_of(0.4,", "field_of(0.3,"),
    (S, "field_of(9,", "field_of(8,"),
    (S, "field_of(4,", "field_of(5,"),
    (S, "field_of((4, 10)", "field_of((4, 9)"),
    (S, "field_of(0.3,", "field_of(0.2,"),
    (S, "field_of(30,", "field_of(8,"),
    (S, "field_of(0.05,", "field_of(0.15,"),
    (S, "centred = 3.0 * (G", "centred = 2.0 * (G"),
    (S, "- G.mean(dim=(-2, -1), keepdim=True)", "- G.mean(dim=-1, keepdim=True)"),
    (S, "block.out((by_G + by_k) / 2)", "block.out(by_G + by_k)"),
    (S, "F.scaled_dot_product_attention(k, k, v, scale=block.scale)",
        "F.scaled_dot_product_attention(v, v, v, scale=block.scale)"),
    (S, "X = self.aggregate(X + R, L)", "X = self.aggregate(X, L)"),
    (S, "X = self.aggregate(repair(X, outliers, grid), G)", "X = self.aggregate(X, G)"),
    (S, "G = G.masked_fill(G < self.beta, 0.0)", "G = G"),
    (S, "L = cosine_similarity(after[late][:, prefix:])", "L = cosine_similarity(after[early][:, prefix:])"),
    (S, "replaced = (inlier == 0) & (count > 0)", "replaced = inlier == 0"),
    (P, "(1e-8 + 0.1 * deviation)", "(1e-8 + 0.2 * deviation)"),
    (P, "(squares / (9 * times - 1)).sqrt()", "(squares / (9 * times)).sqrt()"),
    (P, "mean = (around.sum(dim=2, keepdim=True) + times * own) / (9 * times)",
        "mean = around.mean(dim=2, keepdim=True)"),
    (P, "distance.mean(dim=0).neg_()", "distance.sum(dim=0).neg_()"),
    (P, 'mode="bilinear", align_corners=True', 'mode="bilinear", align_corners=False'),
]  # fmt: skip


def survives(path: str, before: str, after: str) -> bool:
    """Whether all tests still pass with one place changed."""
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        copy = Path(folder)
        for part in ("sclip_plugin", "integrations", "tests", "pyproject.toml"):
            source = ROOT / part
            if source.is_dir():
                ignored = shutil.ignore_patterns("__pycache__", "integrations" if part == "sclip_plugin" else "")
                shutil.copytree(source, copy / part, ignore=ignored)
            else:
                shutil.copy(source, copy / part)
        (copy / "sclip_plugin" / "integrations").symlink_to("../integrations")
        text = (ROOT / path).read_text(encoding="utf-8")
        assert before in text, f"{path} does not say {before!r} any more; mend MUTATIONS"
        (copy / path).write_text(text.replace(before, after), encoding="utf-8")
        for tests in (QUICK, TESTS):
            done = subprocess.run(
                [sys.executable, "-m", "pytest", *tests, "-x", "-q", "-n", "0", "-p", "no:cacheprovider"],
                cwd=copy, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(copy)},
            )  # fmt: skip
            if done.returncode not in (0, 1):
                raise RuntimeError(f"the tests could not run: {done.stdout[-2000:]}{done.stderr[-2000:]}")
            if done.returncode:
                return False
        return True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="mutations whose file or text holds this")
    only = parser.parse_args().only
    chosen = [mutation for mutation in MUTATIONS if only in mutation[0] or only in mutation[1]]
    alive = []
    for path, before, after in chosen:
        lives = survives(path, before, after)
        print(f"{'SURVIVED' if lives else 'killed'}  {path}: {before.strip()}  ->  {after.strip()}", flush=True)
        alive += [before] if lives else []
    print(f"{len(chosen)} mutations, {len(chosen) - len(alive)} killed, {len(alive)} survived")
    return 1 if alive else 0


if __name__ == "__main__":
    sys.exit(main())

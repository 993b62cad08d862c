"""The demo model's vocabulary: a small byte-level BPE in the layout of CLIP's tokenizer, so that any string tokenises.

`python -m sclip_plugin.demo.training.tokenizer --words FILE --out DIR` makes it from the demo's captions and common
words.
"""

import argparse
import json
import pathlib

import numpy as np

from sclip_plugin.demo.captions import caption
from sclip_plugin.demo.sprites import CLASSES, SYNONYMS

POSITIONS = 32  # tokens of the longest text that the demo model reads, start and end included
_START, _END = "<|startoftext|>", "<|endoftext|>"


def corpus(words=(), captions=4000):
    """Text to learn the merges from: the demo's captions and names, and words that users may type; list of str."""
    rng = np.random.default_rng(0)
    named = [rng.choice(CLASSES, rng.integers(1, 5), replace=False) for _ in range(captions)]
    texts = [caption([str(name) for name in names], rng) for names in named]
    names = [word for name in CLASSES for word in (name, *SYNONYMS[name])]
    # Every name is worth a token of its own, however rare the captions make it.
    return texts + [text for text in names for _ in range(200)] + [word.lower() for word in words]


def build(out, words=(), vocabulary=2048):
    """Train the vocabulary and write the files of a transformers CLIPTokenizer into `out`.

    Args:
        out: folder, made if absent.
        words: texts with words that users may type.
        vocabulary: number of tokens in all; the start and end of text are the two highest ids, as CLIP has them.
    """
    import tokenizers

    out = pathlib.Path(out)
    out.mkdir(parents=True, exist_ok=True)
    symbols = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    model = tokenizers.Tokenizer(tokenizers.models.BPE(end_of_word_suffix="</w>"))
    model.normalizer = tokenizers.normalizers.Lowercase()
    pattern = tokenizers.Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
    model.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Split(pattern, "removed", invert=True),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocabulary, initial_alphabet=symbols, end_of_word_suffix="</w>", show_progress=False
    )
    model.train_from_iterator(corpus(words), trainer)
    merges = json.loads(model.to_str())["model"]["merges"]
    merges = [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in merges]
    merges = merges[: vocabulary - 2 * len(symbols) - 2]
    tokens = symbols + [symbol + "</w>" for symbol in symbols] + ["".join(pair) for pair in merges] + [_START, _END]
    ids = {token: index for index, token in enumerate(dict.fromkeys(tokens))}

    def write(name, content):
        (out / name).write_text(content + "\n", encoding="utf-8")

    write("vocab.json", json.dumps(ids, ensure_ascii=False))
    write("merges.txt", "\n".join(["#version: 0.2", *(" ".join(pair) for pair in merges)]))
    special = {"bos_token": _START, "eos_token": _END, "pad_token": _END, "unk_token": _END}
    write("special_tokens_map.json", json.dumps(special, indent=2))
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": POSITIONS, "errors": "replace"}
    write("tokenizer_config.json", json.dumps(settings | {"do_lower_case": True} | special, indent=2))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--words", help="text file with common words or names, one a line")
    parser.add_argument("--out", required=True, help="folder for the tokenizer's files")
    options = parser.parse_args()
    lines = pathlib.Path(options.words).read_text(encoding="utf-8").splitlines() if options.words else ()
    build(options.out, lines)

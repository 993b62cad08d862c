"""Campaigns: many seeded faults of one kind each, with a count of what came of them.

A fault that ends in an error of the package is as it should be. Anything else (another exception, a file in a wrong
place, a result that is not what it says) is an accident, and a campaign returns a sentence about each. The tests run a
few of each kind, ``benchmarks/robustness.py`` many.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import golden
import numpy as np
from PIL import Image

from sclip_plugin.errors import SclipError


@dataclass
class Tally:
    """What came of a campaign: faults put in, those that were refused in a sentence, accidents."""

    faults: int = 0
    refused: int = 0
    accidents: list[str] = field(default_factory=list)

    def attempt(self, what: str, action: Callable[[], Any]) -> Any:
        """Run one fault; an error of the package is a refusal, any other an accident."""
        self.faults += 1
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return action()
        except Exception as error:
            if is_ours(error):
                self.refused += 1
                if len(str(error)) > 4000:
                    self.accidents.append(f"{what}: an error of {len(str(error)):,} characters")
            else:
                where = traceback.extract_tb(error.__traceback__)[-1]
                place = f"{where.filename}:{where.lineno}"
                self.accidents.append(f"{what}: {type(error).__name__}: {error!s:.200} ({place})")
            return None

    def expect(self, condition: bool, what: str) -> None:
        if not condition:
            self.accidents.append(what)

    def __str__(self) -> str:
        return f"{self.faults:,} faults, {self.refused:,} refused, {len(self.accidents)} accidents"


def is_ours(error: Exception) -> bool:
    return isinstance(error, (SclipError, OSError))


# --- what faults are made of


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Bytes with a few of them wrong, missing, repeated or from elsewhere; headers more often than the rest."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        at = rng.randrange(min(len(out), rng.choice((32, 128, len(out)))) or 1) if out else 0
        kind = rng.randrange(7)
        if kind == 0 and out:
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and out:
            out[at] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))
        elif kind == 2:
            del out[at : at + rng.choice((1, 4, 64))]
        elif kind == 3:
            out[at:at] = rng.randbytes(rng.choice((1, 4, 64)))
        elif kind == 4:
            del out[rng.randrange(len(out) + 1) :]
        elif kind == 5:
            out[at : at + 4] = rng.choice((b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"\x80\0\0\0"))
        else:
            start = rng.randrange(len(out) + 1)
            out[at:at] = out[start : start + rng.randrange(1, 65)]
    return bytes(out)


def seed_pictures() -> dict[str, bytes]:
    """A small picture in every format and mode that Pillow writes here."""
    Image.init()  # all formats, whatever has been opened before
    rgb = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a description"
    made = {}
    for kind in ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "AVIF", "JPEG2000", "BMP", "TGA", "PPM", "ICO", "DDS", "QOI"):
        if kind not in Image.SAVE:
            continue
        for mode in ("RGB", "L", "P", "RGBA", "LA", "1", "I;16", "F", "CMYK"):
            file = io.BytesIO()
            with contextlib.suppress(Exception):  # not every format has every mode
                rgb.convert("L" if mode == "I;16" else mode).convert(mode).save(file, kind, exif=exif)
                made[f"{kind}-{mode}"] = file.getvalue()
    moving = io.BytesIO()
    rgb.save(moving, "GIF", save_all=True, append_images=[rgb.rotate(90)])
    return {**{name: data for name, data in made.items() if data}, "GIF-moving": moving.getvalue()}


NAMES = (
    *("cat", "a/b", "a:b", "../../up", "/abs", "C:\\x", "con", ".", "..", "", " ", "\t", "a\0b", "a\nb", "\x1b[31mred"),
    *("\u202eright", "\U0001f408", "\U0001f468\u200d\U0001f469\u200d\U0001f467", "क्षि", "é", "e\u0301", "İ", "ß", "ﬁ"),
    *("\udc80", "\ufeffcat", "{}", "{0}", "%s", "x" * 300, "{{}}", "<b>", "'", '"', "|", ",", "#", "nan", "猫"),
)
VALUES = (
    *(None, True, False, 0, 1, -1, 2**63, -(2**70), 0.5, -0.0, float("nan"), float("inf"), 1e308, "", "0", "imagenet"),
    *("{}", "csa", [], [1, 2], [[]], {}, {"a": 1}, (8, 16), b"x", object(), "x" * 10_000, np.float32(2), 224, 112),
)


def segmenter():
    """A tiny segmenter of the golden checkpoint, without a cache."""
    from sclip_plugin import Segmenter

    model, tokenizer = golden.model("open_clip"), golden.tokenizer_of("open_clip")
    return Segmenter(model, tokenizer, cache_dir=False, templates="plain", resize_short_side=112, window=112)


# --- pictures


def pictures_in_python(count: int, seed: int) -> Tally:
    """Mutated picture files through `read_picture`: a path, an open file, a lazy PIL picture."""
    from sclip_plugin.imaging.pictures import read_picture

    rng, tally, seeds = random.Random(seed), Tally(), sorted(seed_pictures().items())
    for index in range(count):
        name, data = rng.choice(seeds)
        data = mutated(data, rng)
        form = rng.randrange(2)

        def read(data=data, form=form):
            file = io.BytesIO(data)
            if form:
                try:
                    lazy = Image.open(file)
                except Exception:  # Pillow's own, in the hands of whoever calls it
                    return
                read_picture(lazy)
            else:
                assert read_picture(file).mode == "RGB"

        tally.attempt(f"{name}, fault {index} of seed {seed}", read)
    return tally


def arrays_in_python(count: int, seed: int) -> Tally:
    """Arrays and tensors of any type, shape and content through `read_picture`."""
    import torch

    from sclip_plugin.imaging.pictures import read_picture

    rng, tally = random.Random(seed), Tally()
    kinds = [*np.typecodes["AllInteger"], *np.typecodes["Float"], "?", "F", "O", "U4", "S3", "M8[s]", ">u2", ">f4"]
    for index in range(count):
        shape = tuple(rng.choice((0, 1, 2, 3, 4, 5, 9)) for _ in range(rng.randrange(5)))
        kind = rng.choice(kinds)
        with np.errstate(all="ignore"):
            values = np.random.default_rng(index).uniform(-1, 300, shape) * rng.choice((0.002, 1, 300))
            try:
                array = np.asarray(values).astype(kind)
            except (TypeError, ValueError):
                array = np.full(shape, None, object)
        given: Any = np.asarray(array)
        if rng.random() < 0.3 and given.dtype.kind in "uif" and given.dtype.isnative and given.dtype.itemsize <= 8:
            with contextlib.suppress(TypeError):
                given = torch.from_numpy(np.ascontiguousarray(array))
        tally.attempt(f"array {kind} {shape}, fault {index} of seed {seed}", lambda given=given: read_picture(given))
    return tally


def pictures_on_the_command_line(count: int, seed: int, folder: Path) -> Tally:
    """Folders of mutated pictures through ``sclip segment``: every picture is done or named, nothing goes elsewhere."""
    rng, tally, seeds = random.Random(seed), Tally(), sorted(seed_pictures().items())
    suffix = {"JPEG": ".jpg", "JPEG2000": ".jp2", "TIFF": ".tif"}
    one = segmenter()
    for start in range(0, count, 25):
        room = folder / f"{start}"
        (room / "in").mkdir(parents=True)
        names = []
        for index in range(start, min(count, start + 25)):
            name, data = rng.choice(seeds)
            kind = name.partition("-")[0]
            path = room / "in" / f"{index}{suffix.get(kind, f'.{kind.lower()}')}"
            if kind in ("ICO", "DDS", "QOI"):
                path = path.with_suffix(".png")  # its kind is told by its content
            path.write_bytes(mutated(data, rng))
            names.append(path)
        before = set(everything_in(folder))
        command = ["segment", str(room / "in"), "-l", "cat,dog", "-o", str(room / "out"), "--json"]
        code, printed, said = sclip(one, *command)
        tally.faults += len(names)
        lines = [json.loads(line) for line in printed.splitlines()]
        tally.refused += sum(line["status"] == "failed" for line in lines)
        tally.expect(code in (0, 1), f"seed {seed}, folder {start}: exit code {code}: {said:.500}")
        tally.expect(
            sorted(line["picture"] for line in lines) == sorted(map(str, names)),
            f"seed {seed}, folder {start}: {len(lines)} of {len(names)} pictures were spoken of",
        )
        new = set(everything_in(folder)) - before
        outside = [path for path in new if not Path(path).is_relative_to(room / "out")]
        tally.expect(not outside, f"seed {seed}, folder {start}: {outside} outside of --out")
    return tally


# --- labels, templates, files of them


def labels_of_all_kinds(count: int, seed: int, folder: Path) -> Tally:
    """Labels through Python, in files of any encoding, and what their results are called on disk."""
    from sclip_plugin.segment.results import file_names
    from sclip_plugin.text.files import read_labels
    from sclip_plugin.text.labels import parse_labels, parse_templates

    rng, tally = random.Random(seed), Tally()
    one, picture = segmenter(), np.zeros((20, 30, 3), np.uint8)
    for index in range(count):
        names = [rng.choice(NAMES) + rng.choice(("", "", str(index))) for _ in range(rng.randrange(1, 5))]
        what = f"labels {names!r:.100}, fault {index} of seed {seed}"
        way = index % 4
        if way == 0:
            given: Any = [rng.choice((name, [name], [name, "x"], (name,), None, 3, [[name]])) for name in names]
            given = rng.choice((given, names, dict.fromkeys(map(str, names), "x"), ",".join(map(str, names)), None, 7))
            if tally.attempt(what, lambda given=given: parse_labels(given)) and index % 16 == 0:
                tally.attempt(what, lambda given=given: one(picture, given).save(folder / "out", "p", heatmaps=True))
        elif way == 1:
            text = rng.choice(("\n", "\r\n", ", ", "\r"))
            data = mutated(
                text.join(names).encode(rng.choice(("utf-8", "utf-16", "utf-8-sig", "utf-16-le")), "replace"), rng
            )
            path = folder / f"labels{rng.choice(('.txt', '.names', '.json', '.yaml'))}"
            path.write_bytes(data)
            tally.attempt(what, lambda path=path: parse_labels(read_labels(path)))
        elif way == 2:
            template = "".join(rng.choice(NAMES) for _ in range(rng.randrange(1, 4))) + rng.choice(("{}", "", "{}{}"))
            found = tally.attempt(what, lambda template=template: parse_templates(template))
            if found and template not in ("imagenet", "plain"):
                tally.expect(found == (template,), f"{what}: the template {template!r} became {found!r}")
        else:
            tally.faults += 1
            labels = list(dict.fromkeys(names))
            made = list(file_names("photo", labels, heatmaps=True).values())
            fine = len({name.casefold() for name in made}) == len(labels) + 2 and all(
                len(os.fsencode(name)) <= 255 and os.path.basename(name) == name for name in made
            )
            tally.expect(fine, f"{what}: {made}")
    outside = [path for path in everything_in(folder) if Path(path).parent not in (folder, folder / "out")]
    tally.expect(not outside, f"seed {seed}: {outside}")
    return tally


def settings_of_all_kinds(count: int, seed: int) -> Tally:
    """Settings and options of methods with values of all kinds: taken, or refused by name."""
    import dataclasses

    from sclip_plugin.settings import Settings

    rng, tally = random.Random(seed), Tally()
    start = Settings()
    names = [f.name for f in dataclasses.fields(Settings)] + ["std", "projections", "rcs", "windwo", ""]
    for index in range(count):
        changes = {rng.choice(names): rng.choice(VALUES) for _ in range(rng.choice((1, 1, 2)))}
        tally.attempt(
            f"settings {changes!r:.150}, fault {index} of seed {seed}", lambda changes=changes: start.changed(**changes)
        )
    return tally


# --- data sets


def masks(count: int, seed: int, folder: Path) -> Tally:
    """Mutated masks: classes of the benchmark, or refused by name."""
    from sclip_plugin.evaluation.datasets import read_mask
    from sclip_plugin.protocols import load_benchmark

    rng, tally, benchmark = random.Random(seed), Tally(), load_benchmark("voc21")
    labels = Image.fromarray(np.random.default_rng(0).integers(0, 21, (20, 30)).astype(np.uint8))
    seeds = []
    kinds = ("L", "PNG"), ("P", "PNG"), ("I;16", "PNG"), ("L", "TIFF"), ("L", "BMP"), ("L", "GIF"), ("L", "JPEG")
    for mode, kind in kinds:
        file = io.BytesIO()
        labels.convert(mode).save(file, kind)
        seeds.append((f"{kind}-{mode}", file.getvalue()))
    path = folder / "mask.png"
    for index in range(count):
        name, data = rng.choice(seeds)
        path.write_bytes(mutated(data, rng))
        found = tally.attempt(f"mask {name}, fault {index} of seed {seed}", lambda: read_mask(path, benchmark))
        if found is not None:
            fine = found.ndim == 2 and bool(((found < 21) | (found == 255)).all())
            tally.expect(fine, f"mask {name}, fault {index} of seed {seed}: labels that are no classes")
    return tally


def benchmark_files(count: int, seed: int, folder: Path) -> Tally:
    """YAML of data sets, mutated in bytes and in values: a benchmark whose name stays in its folder, or a sentence."""
    import yaml

    from sclip_plugin.protocols import load_benchmark
    from sclip_plugin.protocols.benchmarks import list_benchmarks
    from sclip_plugin.protocols.presets import preset_for_method

    rng, tally = random.Random(seed), Tally()
    data = Path(sys.modules["sclip_plugin.protocols.benchmarks"].__file__).parent / "data"
    texts = [(data / f"{name}.yaml").read_bytes() for name in list_benchmarks()]
    trees = [yaml.safe_load(text) for text in texts]
    plain = [v for v in (*VALUES, *NAMES) if isinstance(v, (str, int, float, list, dict, type(None)))]
    path = folder / "mine.yaml"
    for index in range(count):
        if index % 2:
            path.write_bytes(mutated(rng.choice(texts), rng))
        else:
            tree = json.loads(json.dumps(rng.choice(trees)))
            spot, key = tree, rng.choice(list(tree))
            while isinstance(spot[key], (dict, list)) and spot[key] and rng.random() < 0.7:
                spot = spot[key]
                key = rng.choice(list(spot)) if isinstance(spot, dict) else rng.randrange(len(spot))
            spot[key] = rng.choice(plain)
            path.write_text(json.dumps(tree), encoding="utf-8")
        what = f"benchmark file, fault {index} of seed {seed}"
        found = tally.attempt(what, lambda: load_benchmark(path))
        if found is not None:
            inside = Path(os.path.normpath(folder / "out" / f"{found.name}-csa")).parent == folder / "out"
            tally.expect(inside, f"{what}: the name {found.name!r} leads elsewhere")
            tally.attempt(what, lambda found=found: preset_for_method(found, "csa"))
    return tally


def picture_logs(count: int, seed: int, folder: Path) -> Tally:
    """Logs of evaluations with bytes wrong, lines lost, repeated or from elsewhere: the figures stay the same."""
    from sclip_plugin.evaluation.picture_log import PictureLog, PictureRecord

    rng, tally = random.Random(seed), Tally()
    settings = {"method": "csa", "scale": 40}
    counts = np.random.default_rng(0).integers(0, 1000, (12, 3, 5))
    right = {f"picture {index}": counts[index] for index in range(12)}

    def write(where: Path, settings: dict) -> bytes:
        log = PictureLog(where, settings, 5)
        log.open()
        for name, values in right.items():
            log.append(PictureRecord(name, values + (settings["scale"] != 40)))
        log.close()
        return log.path.read_bytes()

    whole, foreign = write(folder / "a", settings), write(folder / "b", {**settings, "scale": 50})
    for index in range(count):
        lines = whole.splitlines(keepends=True)
        for _ in range(rng.randrange(3)):
            lines.insert(rng.randrange(len(lines)), rng.choice(foreign.splitlines(keepends=True)[1:]))
        data = b"".join(lines)
        (folder / "a/pictures-0.jsonl").write_bytes(mutated(data, rng) if index % 4 else data)
        log = PictureLog(folder / "a", settings, 5)
        what = f"log, fault {index} of seed {seed}"
        found = tally.attempt(what, log.read)
        tally.expect(found is not None, f"{what}: resuming is blocked")
        for name, record in (found or {}).items():
            fine = name in right and np.array_equal(record.counts, right[name])
            tally.expect(fine, f"{what}: other figures for {name!r}")
    return tally


def model_folders(count: int, seed: int, folder: Path) -> Tally:
    """Folders of models whose files are cut, mutated, missing or of other kinds: an error of the package."""
    from sclip_plugin.cli.options import quiet_transformers
    from sclip_plugin.loading import load_model

    quiet_transformers()
    rng, tally = random.Random(seed), Tally()
    golden.save_folder(folder / "whole")
    files = {path.name: path.read_bytes() for path in (folder / "whole").iterdir() if path.is_file()}
    room = folder / "model"
    room.mkdir()
    for index in range(count):
        for name, data in files.items():
            (room / name).write_bytes(data)
        for name in rng.sample(sorted(files), rng.choice((1, 1, 2))):
            kind = rng.randrange(4)
            if kind == 0:
                (room / name).unlink()
            elif kind == 1:
                (room / name).write_bytes(files[name][: rng.randrange(len(files[name]))])
            elif kind == 2:
                (room / name).write_text(rng.choice(("{}", "[]", "null", '"x"', "{", "[" * 9000, "\0")))
            else:
                (room / name).write_bytes(mutated(files[name], rng))
        tally.attempt(
            f"model folder, {name} in way {kind}, fault {index} of seed {seed}", lambda: load_model(str(room))
        )
    return tally


# --- processes


def everything_in(folder: Path) -> Iterator[str]:
    for parent, _, names in os.walk(folder):
        yield from (os.path.join(parent, name) for name in names)


def sclip(one: Any, *arguments: str) -> tuple[int, str, str]:
    """The command line in this process, with a segmenter in hand: its exit code, standard output and error."""
    from sclip_plugin.cli import program
    from sclip_plugin.segment.segmenter import Segmenter

    out, err = io.StringIO(), io.StringIO()
    kept, Segmenter.from_pretrained = Segmenter.from_pretrained, classmethod(lambda *_, **__: one)  # type: ignore
    argv, sys.argv = sys.argv, ["sclip", *arguments]
    code = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
            program.run()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(bool(stop.code))
    except Exception:
        code = 99
        err.write(traceback.format_exc())
    finally:
        Segmenter.from_pretrained, sys.argv = kept, argv  # type: ignore[method-assign]
    return code, out.getvalue(), err.getvalue()

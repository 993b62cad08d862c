"""Anomalies: AnomalyCLIP's text, layers, map and score against its own arrays; words; the command; AUROC."""

from __future__ import annotations

import json

import golden
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from typer.testing import CliRunner

import sclip_plugin as sp
from sclip_plugin.anomaly import Anomaly, AnomalyDetector
from sclip_plugin.anomaly.detector import smoothed
from sclip_plugin.anomaly.mvtec import categories, evaluate_category
from sclip_plugin.anomaly.text import ABNORMAL, NORMAL, learned_pair, load_prompts
from sclip_plugin.cli.program import app
from sclip_plugin.draw import fonts
from sclip_plugin.errors import FileFormatError, PictureNotFoundError, SettingError, UnsupportedModelError
from sclip_plugin.text.towers import find_text_tower

pytestmark = pytest.mark.usefixtures("without_gradients")

THEIRS = golden.arrays("AnomalyCLIP")
CLIPS = ("transformers", "open_clip", "open_clip_custom_text", "openai")


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    """As the authors save them."""
    path = tmp_path_factory.mktemp("prompts") / "epoch_15.pth"
    prefix = "prompt_learner."
    torch.save({"prompt_learner": {k.removeprefix(prefix): v for k, v in THEIRS.items() if k.startswith(prefix)}}, path)
    return path


def model(framework="transformers"):
    """The golden checkpoint with the embeddings of the words of these prompts, which other tests do without."""
    clip = golden.model(framework)
    table = next(p for name, p in clip.named_parameters() if "token_embedding" in name)
    with torch.no_grad():
        table[THEIRS["token_embedding.rows"].long()] = THEIRS["token_embedding.values"].float()
    return clip


@pytest.mark.parametrize("framework", CLIPS)
def test_anomalyclip(framework, prompts):
    clip, tokenizer = model(framework), golden.tokenizer_of(framework)
    text = learned_pair(find_text_tower(clip, tokenizer), load_prompts(prompts))
    golden.assert_equal(text, THEIRS["text_before_normalising"])
    detector = AnomalyDetector(clip, tokenizer, prompts=prompts)
    assert (detector.layers, detector.path) == ((3, 6, 9, 12), 9)
    for size in ("112x112", "144x144"):
        pixels = golden.arrays("inputs")[f"pixels.{size}"]
        tokens, image = detector.features(pixels)
        golden.assert_equal(image, THEIRS[f"anomaly.{size}.image_feature"])
        for layer, ours in zip(detector.layers, tokens, strict=True):
            golden.assert_equal(ours, THEIRS[f"anomaly.{size}.layer{layer}.tokens"])
        maps, scores = detector.maps(pixels, 60)
        golden.assert_equal(maps, THEIRS[f"anomaly.{size}.map_60"])
        golden.assert_equal(scores[:1], THEIRS[f"anomaly.{size}.image_score"])


@pytest.mark.parametrize("shape", [(60, 60), (5, 40), (1, 3)])
def test_smoothing_is_scipys(shape):
    ndimage = pytest.importorskip("scipy.ndimage")
    maps = torch.rand(2, *shape)
    expected = np.stack([ndimage.gaussian_filter(m.numpy().astype(np.float64), 4) for m in maps])
    golden.assert_equal(smoothed(maps, 4.0).double(), torch.from_numpy(expected), 1e-6)


@pytest.mark.parametrize(
    ("depth", "layers", "path"), [(24, (6, 12, 18, 24), 19), (12, (3, 6, 9, 12), 9), (4, (1, 2, 3, 4), 3)]
)
def test_blocks_at_other_depths(depth, layers, path):
    from transformers import CLIPConfig, CLIPModel

    clip = CLIPModel(
        CLIPConfig(
            projection_dim=64,
            vision_config=dict(
                hidden_size=32, intermediate_size=64, num_hidden_layers=depth, num_attention_heads=2, image_size=32,
                patch_size=8, projection_dim=64,
            ),
            text_config=dict(
                hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, projection_dim=64
            ),
        )
    ).eval()  # fmt: skip
    detector = AnomalyDetector(clip, golden.tokenizer(), thing="nut", layers=(6, 12, 18, 24), cache_dir=False)
    assert (detector.layers, detector.path, detector.size) == (layers, path, 48)
    tokens, image = detector.features(torch.randn(2, 3, 48, 48))
    assert len(tokens) == 4 and tokens[0].shape == (2, 37, 64) and image.shape == (2, 64)


def test_words():
    """Normal and abnormal states of a thing, each over all templates; one layer, so heat is a share."""
    detector = AnomalyDetector(golden.model(), golden.tokenizer(), thing="cat", cache_dir=False)
    bank = sp.Segmenter(golden.model(), golden.tokenizer(), cache_dir=False).text_bank
    for row, states in zip(detector.pair, (NORMAL, ABNORMAL), strict=True):
        names = [state.replace("{}", "cat") for state in states]
        golden.assert_equal(row, F.normalize(bank.embed(names, sp.Settings().templates).mean(dim=0), dim=0))
    found = detector(Image.new("RGB", (130, 90), "grey"))
    assert found.heat.shape == (90, 130) and found.layers == 1
    assert 0 <= found.heat.min() and found.heat.max() <= 1 and 0 <= found.score <= 1
    assert found.heatmap().width >= 130


def saturation(picture):
    """(H, W), 0 to 255: how far each pixel of an RGB picture is from grey."""
    return np.ptp(np.asarray(picture).astype(int), axis=2)


@pytest.mark.parametrize("layers", [1, 4])
def test_the_picture_of_what_is_normal_stays_grey(layers):
    """The scale is the same in every picture: colours begin where abnormal fits better, and say no more than that."""
    heat = layers * np.linspace(0, 1, 300, dtype=np.float32)[None].repeat(200, 0)
    colours = saturation(Anomaly(0.5, heat, layers, Image.new("RGB", (300, 200), "tan")).heatmap())[100]
    assert colours[:150].max() == 0 < colours[160] < colours[200] < colours[280]
    even = Anomaly(0.5, np.full((200, 300), 0.5 * layers, np.float32), layers, Image.new("RGB", (300, 200), "tan"))
    assert saturation(even.heatmap())[:200].max() == 0


def test_the_legend_says_it_once(monkeypatch):
    said, draw = [], fonts.draw_text
    monkeypatch.setattr(
        fonts, "draw_text", lambda image, at, text, *rest: said.append(text) or draw(image, at, text, *rest)
    )
    Anomaly(0.1, np.zeros((200, 300), np.float32), 1, Image.new("RGB", (300, 200))).heatmap()
    assert said == ["how abnormal", "grey up to 0.5: normal fits better", "0", "1"]


def test_what_it_refuses(prompts, tmp_path):
    with pytest.raises(SettingError, match='thing="metal nut"'):
        AnomalyDetector(golden.model(), golden.tokenizer())
    with pytest.raises(SettingError, match="1 to 24"):
        AnomalyDetector(golden.model(), golden.tokenizer(), thing="nut", layers=(25,))
    state = torch.load(prompts)["prompt_learner"]
    torch.save({"prompt_learner": {**state, "ctx_pos": state["ctx_pos"][..., :32]}}, tmp_path / "narrow.pth")
    with pytest.raises(FileFormatError, match="ctx_neg"):
        load_prompts(tmp_path / "narrow.pth")
    narrow = {name: value[..., :32].clone() for name, value in load_prompts(prompts).items()}
    with pytest.raises(FileFormatError, match="width 32, and this one has 64"):
        learned_pair(find_text_tower(golden.model(), golden.tokenizer()), narrow)

    class Other(sp.text.base.TextTower):
        read = encode = None

    Other.__abstractmethods__ = frozenset()
    with pytest.raises(UnsupportedModelError, match="causal"):
        learned_pair(Other([torch.zeros(1)]), load_prompts(prompts))


@pytest.fixture
def mvtec(tmp_path):
    """Two categories; defects are bright squares."""
    generator = np.random.default_rng(0)
    for category in ("metal_nut", "tile"):
        for kind in ("good", "scratch"):
            for number in range(2):
                pixels = generator.integers(0, 100, (80, 100, 3), dtype=np.uint8)
                mask = np.zeros((80, 100), np.uint8)
                if kind != "good":
                    pixels[20:50, 30:70], mask[20:50, 30:70] = 255, 255
                    folder = tmp_path / category / "ground_truth" / kind
                    folder.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(mask).save(folder / f"{number:03}_mask.png")
                folder = tmp_path / category / "test" / kind
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(folder / f"{number:03}.png")
    return tmp_path


class Bright(AnomalyDetector):
    """Heat is brightness, the score its mean: what the areas must come out as is known."""

    def __init__(self):
        self.size = 50

    def pixels(self, picture):
        return torch.from_numpy(np.asarray(picture.resize((50, 50), Image.Resampling.NEAREST)).copy()).float()[None]

    def maps(self, pixels, size=None):
        heat = pixels.mean(dim=-1)
        return heat, heat.mean(dim=(1, 2))


def test_areas(mvtec):
    pytest.importorskip("sklearn")
    found = categories(mvtec)
    assert {name: len(samples) for name, samples in found.items()} == {"metal_nut": 4, "tile": 4}
    assert list(categories(mvtec / "tile")) == ["tile"]
    result = evaluate_category(Bright(), "tile", found["tile"])
    assert (result.image_auroc, result.pixel_auroc, result.pictures, result.abnormal) == (1.0, 1.0, 4, 2)
    mask, exif = mvtec / "tile" / "ground_truth" / "scratch" / "000_mask.png", Image.Exif()
    exif[0x0112] = 6
    Image.open(mask).transpose(Image.Transpose.ROTATE_90).save(mask, exif=exif)
    assert evaluate_category(Bright(), "tile", found["tile"]).pixel_auroc == 1.0
    mask.unlink()
    with pytest.raises(PictureNotFoundError, match="has no mask"):
        categories(mvtec)
    with pytest.raises(PictureNotFoundError, match="MVTec AD's layout"):
        categories(mvtec / "tile" / "test")


def test_the_commands(mvtec, tmp_path):
    pytest.importorskip("sklearn")
    run = CliRunner()
    pictures = str(mvtec / "tile" / "test" / "scratch")
    answer = run.invoke(
        app, ["anomaly", pictures, "--object", "tile", "--model", "demo", "--out", str(tmp_path / "out"), "--json"]
    )
    assert answer.exit_code == 0, answer.output
    rows = [json.loads(line) for line in answer.stdout.splitlines()]
    assert len(rows) == 2 and all(0 <= row["score"] <= 1 for row in rows)
    for stem in ("000", "001"):
        assert json.loads((tmp_path / "out" / f"{stem}.anomaly.json").read_text())["object"] == "tile"
        assert Image.open(tmp_path / "out" / f"{stem}.anomaly.png").width >= 100
    command = ["anomaly", pictures, "--object", "tile", "--model", "demo", "--out", str(tmp_path / "out")]
    assert run.invoke(app, command).exit_code == 0  # its own results are replaced
    own = tmp_path / "out" / "001.anomaly.png"
    own.write_bytes(b"somebody's own")
    answer = run.invoke(app, command)
    assert answer.exit_code != 0 and own.read_bytes() == b"somebody's own"
    assert "no result of sclip" in answer.output + str(answer.exception)
    answer = run.invoke(
        app, ["eval", "mvtec", "--data", str(mvtec), "--model", "demo", "--out", str(tmp_path / "eval")]
    )
    assert answer.exit_code == 0, answer.output
    said = json.loads((tmp_path / "eval" / "mvtec.json").read_text())
    assert [row["category"] for row in said["categories"]] == ["metal_nut", "tile"]
    assert all(0 <= said["mean"][name] <= 1 for name in ("image_auroc", "pixel_auroc"))


@pytest.mark.parametrize(
    ("options", "named"),
    [([], "'--object'"), (["--object", " "], "'--object'"), (["--prompts", "none.pth"], "'--prompts'")],
)
def test_a_missing_option_is_named_as_it_is_typed(options, named, tmp_path, monkeypatch):
    """And before a model is loaded, or a folder made."""
    monkeypatch.setattr("sclip_plugin.loading.load_model", None)
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    answer = CliRunner().invoke(app, ["anomaly", "a.png", "--model", "demo", *options], terminal_width=200)
    assert answer.exit_code == 2 and named in answer.output and "thing" not in answer.output
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]

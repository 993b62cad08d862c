"""Models by name: what works, what is refused in a sentence, and what is never run."""

import json
import pickle
import shutil
import socket

import open_clip
import pytest
import safetensors.torch
import torch
from text.open_clip_models import byte_tokenizer
from transformers import CLIPModel

import sclip_plugin as sp
from sclip_plugin.errors import ModelLoadError
from sclip_plugin.loading import load_model

SMALL = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "head_width": 32, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 1},
}


@pytest.fixture
def demo_folder(tmp_path):
    return shutil.copytree(sp.demo_model(), tmp_path / "model")


@pytest.fixture
def arch(monkeypatch, tmp_path):
    """A small architecture that open_clip knows by name."""
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "tiny-test.json").write_text(json.dumps(SMALL))
    open_clip.add_model_config(tmp_path / "configs" / "tiny-test.json")
    return "tiny-test"


def small_model():
    torch.manual_seed(0)
    return open_clip.CLIP(**SMALL).eval()


class Harm:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


class TestOpenClipFiles:
    @pytest.mark.parametrize("form", ["safetensors", "pickle", "training", "misnamed"])
    def test_a_checkpoint(self, arch, tmp_path, form):
        state = small_model().state_dict()
        path = tmp_path / ("weights.safetensors" if form == "safetensors" else "weights.pt")
        if form in ("safetensors", "misnamed"):
            safetensors.torch.save_file({k: v.clone() for k, v in state.items()}, path)
        elif form == "pickle":
            torch.save(state, path)
        else:
            torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in state.items()}}, path)
        loaded = load_model(f"open_clip:{arch}@{path}")
        assert torch.equal(loaded.model.visual.proj, state["visual.proj"])

    @pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors", "weights.bin"])
    def test_nothing_in_a_file_is_run(self, arch, tmp_path, name):
        (tmp_path / name).write_bytes(pickle.dumps(Harm(tmp_path / "harm")))
        with pytest.raises(ModelLoadError, match="could not be fetched or read"):
            load_model(f"open_clip:{arch}@{tmp_path / name}")
        torch.save(Harm(tmp_path / "harm"), tmp_path / name)
        with pytest.raises(ModelLoadError, match="could not be fetched or read"):
            load_model(f"open_clip:{arch}@{tmp_path / name}")
        assert not (tmp_path / "harm").exists()

    def test_other_weights_are_said(self, arch, tmp_path):
        torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pt")
        with pytest.raises(ModelLoadError, match="reason given"):
            load_model(f"open_clip:{arch}@{tmp_path / 'other.pt'}")


class TestOpenClipFolders:
    def folder(self, tmp_path):
        folder = tmp_path / "published"
        folder.mkdir()
        tokenizer = byte_tokenizer("bert")
        text = {**SMALL["text_cfg"], "hf_tokenizer_name": str(folder), "vocab_size": 300, "context_length": 64}
        config = {"embed_dim": 32, "vision_cfg": SMALL["vision_cfg"], "text_cfg": {**text, "pool_type": "last"}}
        preprocess = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
        published = {"model_cfg": config, "preprocess_cfg": preprocess}
        (folder / "open_clip_config.json").write_text(json.dumps(published))
        shutil.copytree(tokenizer, folder, dirs_exist_ok=True)
        model = open_clip.CLIP(
            embed_dim=32,
            vision_cfg=SMALL["vision_cfg"],
            text_cfg={k: v for k, v in config["text_cfg"].items()},
        )
        safetensors.torch.save_file(
            {k: v.clone() for k, v in model.state_dict().items()}, folder / "open_clip_model.safetensors"
        )
        return folder

    @pytest.mark.skipif(int(open_clip.__version__.split(".")[0]) < 3, reason="only open_clip 3 reads folders")
    def test_as_open_clip_publishes_them(self, tmp_path):
        folder = self.folder(tmp_path)
        loaded = load_model(f"open_clip:local-dir:{folder}")
        assert loaded.image_mean == [0.5, 0.5, 0.5] and loaded.image_std == [0.25, 0.25, 0.25]
        seg = sp.Segmenter(loaded.model, loaded.tokenizer, cache_dir=False, templates="plain")
        scene = sp.draw_scene(seed=1)
        assert seg(scene.picture, ["cat", "dog"]).label_map.shape == scene.label_map.shape

    def test_a_folder_that_is_none(self, tmp_path):
        with pytest.raises(ModelLoadError, match="holds no open_clip_config.json"):
            load_model(f"open_clip:local-dir:{tmp_path}")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("open_clip:ViT-B/16", "open_clip:ViT-B-16/openai"),
        ("open_clip:ViT-L/14@336px", "open_clip:ViT-L-14-336/openai"),
        ("open_clip:RN50", "open_clip:ARCH/PRETRAINED"),
        ("open_clip:ViT-B-16/openia", "Did you mean 'openai'"),
        ("open_clip:ViT-B-61/openai", "Did you mean 'ViT-B-16'"),
        ("ViT-B/32", "open_clip:ViT-B-32/openai"),
        ("Demo", "Did you mean 'demo'"),
        ("dmeo", "Did you mean 'demo'"),
    ],
)
def test_names_get_a_hint(name, says, monkeypatch):
    def nowhere(*arguments, **options):
        raise socket.gaierror("no network")

    monkeypatch.setattr(socket, "getaddrinfo", nowhere)
    with pytest.raises(ModelLoadError) as caught:
        load_model(name)
    assert says in str(caught.value)


def test_the_hub_is_asked_for_hub_ids_only(monkeypatch, demo_folder):
    asked = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: asked.append(a) or [])
    load_model("demo")
    load_model(str(demo_folder))
    assert asked == []


class TestFolders:
    def test_missing_weights_are_named(self, demo_folder):
        """A checkpoint without its text tower (LLM2CLIP's says "clip") is not read with a random one."""
        state = safetensors.torch.load_file(demo_folder / "model.safetensors")
        kept = {name: value for name, value in state.items() if not name.startswith("text_model.encoder")}
        safetensors.torch.save_file(kept, demo_folder / "model.safetensors", {"format": "pt"})
        with pytest.raises(ModelLoadError, match=r"lacks weights .* CLIPModel needs, such as text_model\.encoder"):
            load_model(str(demo_folder))

    def test_a_class_of_its_own_is_refused(self, demo_folder):
        config = json.loads((demo_folder / "config.json").read_text())
        config |= {"architectures": ["LLM2CLIPModel"], "auto_map": {"AutoModel": "modeling.LLM2CLIPModel"}}
        (demo_folder / "config.json").write_text(json.dumps(config))
        (demo_folder / "modeling.py").write_text("raise SystemExit('run')")
        with pytest.raises(ModelLoadError, match="LLM2CLIPModel, a class that its own repository brings|could not be"):
            load_model(str(demo_folder))

    def test_a_config_does_not_choose_the_attention(self, demo_folder):
        config = json.loads((demo_folder / "config.json").read_text())
        config["attn_implementation"] = config["_attn_implementation"] = "somebody/kernel"
        (demo_folder / "config.json").write_text(json.dumps(config))
        assert isinstance(load_model(str(demo_folder)).model, CLIPModel)

    @pytest.mark.parametrize(
        ("file", "content"),
        [
            ("model.safetensors", None),
            ("model.safetensors", b"\0" * 40),
            ("config.json", b"{"),
            ("config.json", b"[]"),
            ("config.json", b'{"model_type": "nonesuch"}'),
            ("vocab.json", b""),
            ("tokenizer_config.json", b"[1, 2"),
            ("preprocessor_config.json", b'{"image_mean": 3}'),
            ("preprocessor_config.json", b'{"image_mean": ["a", "b", "c"]}'),
        ],
    )
    def test_broken_folders_end_in_a_sentence(self, demo_folder, file, content):
        path = demo_folder / file
        path.write_bytes(path.read_bytes()[:1000] if content is None else content)
        with pytest.raises(ModelLoadError) as caught:
            load_model(str(demo_folder))
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 700


@pytest.mark.parametrize(("short", "long"), [("fp16", "float16"), ("bf16", "bfloat16"), ("half", "float16")])
def test_short_names_of_dtypes_get_a_hint(short, long):
    with pytest.raises(sp.SclipError, match=f"unknown dtype '{short}'. Did you mean '{long}'"):
        load_model("demo", dtype=short)


def test_a_processor_that_does_not_normalise_is_followed(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(sp.demo_model(), folder)
    said = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps({**said, "do_normalize": False}))
    plain = sp.Segmenter.from_pretrained(str(folder), device="cpu")
    pipe = pytest.importorskip("transformers").pipeline("zero-shot-segmentation", model=str(folder), device="cpu")
    for segmenter in (plain, pipe.segmenter):
        assert segmenter.encoder.mean.tolist() == [0, 0, 0] and segmenter.encoder.std.tolist() == [1, 1, 1]


def test_tipsv2_reads_values_as_they_are():
    transformers = pytest.importorskip("transformers")
    if not hasattr(transformers, "Tipsv2Model"):
        pytest.skip("this release of transformers has no Tipsv2Model")
    from towers.families import tipsv2

    seg = sp.Segmenter(tipsv2(), lambda *_, **__: {"input_ids": [[1, 2]]}, cache_dir=False)
    assert seg.encoder.mean.tolist() == [0, 0, 0] and seg.encoder.std.tolist() == [1, 1, 1]
    processor = transformers.Tipsv2ImageProcessor()
    assert processor.do_normalize is False and seg.chain.encoder.tower.mean == (0.0, 0.0, 0.0)

"""The command line as people type it, in a process of its own where it matters, in this one where it does not."""

import json
import subprocess
import sys

import golden
import numpy as np
import pytest
from PIL import Image

import sclip_plugin as sp
from sclip_plugin.cli import program as cli


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(golden.save_folder(tmp_path_factory.mktemp("golden-clip")))


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    (folder / "inside").mkdir(parents=True)
    for index, name in enumerate(["a.png", "a.jpg", "inside/b.png"]):
        values = np.random.default_rng(index).integers(0, 256, (40, 60, 3), dtype=np.uint8)
        Image.fromarray(values).save(folder / name)
    (folder / "notes.txt").write_text("not a picture")
    return folder


@pytest.fixture
def sclip(monkeypatch, capsys, tmp_path):
    """Runs the command line and gives its exit code and what it wrote."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["sclip", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.run()
        captured = capsys.readouterr()
        return stop.value.code or 0, captured.out + captured.err

    return run


def test_a_folder_is_segmented(sclip, model, pictures, tmp_path):
    out = tmp_path / "out"
    code, said = sclip(
        "segment", pictures, "--labels", "cat, sofa|couch", "-m", model, "-o", out, "--templates", "plain"
    )
    assert code == 0, said
    made = {str(path.relative_to(out)) for path in out.rglob("*.json")}
    assert made == {"a.png.json", "a.jpg.json", "inside/b.json"}
    report = json.loads((out / "inside/b.json").read_text())
    assert [entry["label"] for entry in report["labels"]] == ["cat", "sofa"]
    assert Image.open(out / "inside/b.labels.png").size == (60, 40)


def test_one_bad_file_is_reported_and_does_not_stop_the_rest(sclip, model, pictures, tmp_path):
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"\xff\xd8 cut")
    out = tmp_path / "out"
    code, said = sclip("segment", bad, pictures / "a.png", tmp_path / "no.jpg", "-l", "cat", "-m", model, "-o", out)
    assert code == 1
    assert "1 done, 0 skipped, 2 failed" in said and "bad.jpg" in said and "no.jpg" in said
    assert (out / "a.overlay.png").exists()


def test_resume_skips_what_was_done_with_the_same_settings(sclip, model, pictures, tmp_path):
    out = tmp_path / "out"
    command = ["segment", pictures, "-l", "cat,dog", "-m", model, "-o", out, "--templates", "plain", "--resume"]
    assert "3 done, 0 skipped" in sclip(*command)[1]
    (out / "inside/b.json").unlink()
    assert "1 done, 2 skipped" in sclip(*command)[1]
    assert "3 done, 0 skipped" in sclip(*command, "--method", "naclip")[1]
    assert "3 done, 0 skipped" in sclip(*command, "--method", "naclip", "--dtype", "bfloat16")[1]


@pytest.mark.parametrize("device", ["cude", "cuda:99"])
def test_a_device_that_is_not_there_is_said_before_a_model_is_read(sclip, pictures, device):
    code, said = sclip("segment", pictures, "-l", "cat", "-m", "no-such-model", "--device", device)
    assert code == 2
    assert said.startswith(f"error: the device '{device}' cannot be used") and "such as cpu" in said


def test_labels_from_a_file_and_a_pattern(sclip, model, pictures, tmp_path):
    (tmp_path / "labels.txt").write_text("# mine\ncat\nsofa|couch\n\nremote, control\n", encoding="utf-8")
    out = tmp_path / "out"
    code, said = sclip("segment", f"{pictures}/*.png", "-l", f"@{tmp_path}/labels.txt", "-m", model, "-o", out)
    assert code == 0, said
    report = json.loads((out / "a.json").read_text())
    assert [entry["label"] for entry in report["labels"]] == ["cat", "sofa", "remote"]
    assert report["settings"]["labels"][2] == ["remote", "control"]


def test_compare_writes_one_picture(sclip, model, pictures, tmp_path):
    out = tmp_path / "compare.png"
    code, said = sclip(
        "compare", pictures / "a.png", "-l", "cat,dog", "--methods", "vanilla,csa,kk", "-m", model, "-o", out
    )
    assert code == 0, said
    assert Image.open(out).width > 4 * 60


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["segment", "x.jpg", "-l", "cat", "--method", "cas", "-m", "MODEL"], "Did you mean 'csa'"),
        (["segment", "x.jpg", "-l", " , ", "-m", "MODEL"], "--labels"),
        (["segment", "x.jpg", "-l", "cat,cat", "-m", "MODEL"], "twice"),
        (["segment", ".", "-l", "cat", "-m", "MODEL"], "no pictures"),
        (["segment", "x.jpg", "-l", "@nowhere.txt", "-m", "MODEL"], "nowhere.txt"),
        (["segment", "x.jpg", "-l", "cat", "-m", "demmo"], "demo"),
        (["segment", "x.jpg"], "--labels"),
        (["compare", "x.jpg", "-l", "cat", "--methods", "csa,nope", "-m", "MODEL"], "nope"),
    ],
)
def test_mistakes_end_in_one_sentence(sclip, model, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    code, said = sclip(*[model if argument == "MODEL" else argument for argument in arguments])
    assert code == 2
    assert words in said
    assert "Traceback" not in said


def test_the_demo_needs_nothing(sclip, tmp_path):
    code, said = sclip("demo", "-o", tmp_path / "demo")
    assert code == 0, said
    miou = float(said.split("mIoU with csa: ")[1].split(" %")[0])
    refined = float(said.split("(--refine): ")[1].split(" %")[0])
    _, said_plain = sclip("demo", "-o", tmp_path / "plain", "--method", "vanilla")
    plain = float(said_plain.split("vanilla: ")[1].split(" %")[0])
    assert miou > 60 and miou > plain and refined > miou
    assert sclip("demo", "-o", tmp_path / "words", "--method", "resclip")[0] == 0  # which looks with the words
    assert {"scene.png", "scene.overlay.png", "scene.unrefined.png", "scene.truth.png", "scene.json"} <= {
        path.name for path in (tmp_path / "demo").iterdir()
    }


def test_masks_get_words(sclip, model, tmp_path):
    scene = sp.draw_scene(seed=2)
    scene.picture.save(tmp_path / "scene.png")
    (tmp_path / "masks").mkdir()
    Image.fromarray((scene.label_map + 1).astype(np.uint8)).save(tmp_path / "masks" / "scene.png")
    names = ", ".join(scene.labels)
    for masks in (tmp_path / "masks", tmp_path / "masks" / "scene.png", "slic"):
        arguments = (
            "label",
            tmp_path / "scene.png",
            "--masks",
            masks,
            "-l",
            names,
            "-m",
            "demo",
            "-o",
            tmp_path / "out",
        )
        code, said = sclip(*arguments, "--view", "crop")
        assert code == 0, said
        written = json.loads((tmp_path / "out" / "scene.masks.json").read_text())
        assert said.count("%") == len(written["regions"]) and (tmp_path / "out" / "scene.masks.png").exists()
        _, lines = sclip(*arguments, "--json")
        numbers = [json.loads(line)["mask"] for line in lines.splitlines() if line.startswith("{")]
        assert numbers == list(range(len(written["regions"])))
    code, said = sclip("segment", tmp_path / "scene.png", "--masks", tmp_path / "masks", "-l", names, "-m", "demo",
                       "--steps", "vote", "-o", tmp_path / "corrected")  # fmt: skip
    assert code == 0, said
    label_map = np.asarray(Image.open(tmp_path / "corrected" / "scene.labels.png"))
    for index in range(len(scene.labels)):
        assert len(np.unique(label_map[scene.label_map == index])) == 1
    code, said = sclip("label", tmp_path / "scene.png", "--masks", "slik", "-l", "cat", "-m", "demo")
    assert code == 2 and "Did you mean 'slic'" in said


def test_the_cache_is_shown_and_cleared(sclip, model, pictures, tmp_path):
    assert "nothing is kept" in sclip("cache")[1]
    sclip("segment", pictures / "a.png", "-l", "cat", "-m", model, "-o", tmp_path / "out", "--templates", "plain")
    assert "text: 1 files" in sclip("cache")[1]
    assert "1 files, 0.0 MiB removed" in sclip("cache", "--clear")[1]
    assert "text: 0 files" in sclip("cache")[1]


def test_methods_are_listed(sclip):
    code, said = sclip("methods")
    assert code == 0
    assert "csa" in said and "arXiv 2312.01597" in said and "projections=('q', 'k')" in said


def run_python(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=300)


def test_help_and_version_need_no_torch():
    code = (
        "import sys; sys.argv = ['sclip', {!r}]\nfrom sclip_plugin.cli import program as cli\n"
        "try: cli.run()\nexcept SystemExit: pass\n"
    )
    for flag, words in (("--help", "segment"), ("--version", "sclip_plugin")):
        done = run_python("-c", code.format(flag) + "assert 'torch' not in sys.modules, 'torch was imported'")
        assert done.returncode == 0, done.stderr
        assert words in done.stdout


def test_importing_the_package_imports_no_framework():
    heavy = "['torch', 'transformers', 'timm', 'open_clip', 'detectron2', 'numpy', 'PIL']"
    done = run_python("-c", f"import sys, sclip_plugin; print([m for m in {heavy} if m in sys.modules])")
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_every_public_name_is_there():
    import sclip_plugin as sp

    for name in sp.__all__:
        assert getattr(sp, name) is not None
    with pytest.raises(AttributeError, match="nothing"):
        sp.nothing  # noqa: B018


def test_a_hub_out_of_reach_is_said_without_retries(tmp_path):
    code = (
        "import socket, sys\n"
        "def nowhere(*arguments, **options): raise socket.gaierror('no network')\n"
        "socket.getaddrinfo = nowhere\n"
        f"sys.argv = ['sclip', 'segment', 'x.jpg', '-l', 'cat', '-o', {str(tmp_path)!r}]\n"
        "from sclip_plugin.cli import program as cli; cli.run()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300,
        env={"HF_HOME": str(tmp_path), "PATH": "", "PYTHONPATH": ":".join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert "openai/clip-vit-base-patch16" in line and "local folder" in line and "'demo' works now" in line
    assert "Retrying" not in done.stderr

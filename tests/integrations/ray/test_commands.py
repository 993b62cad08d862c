"""``--ray`` on the command line, on a local Ray of two workers."""

import json
import os
import signal

import pytest
from PIL import Image
from typer.testing import CliRunner

import sclip_plugin as sp
from sclip_plugin.cli.program import app
from sclip_plugin.cli.ray import with_address
from sclip_plugin.errors import SclipError, SettingError

pytest.importorskip("ray.data", reason="needs Ray Data: pip install 'sclip_plugin[ray]'")
import pyarrow.parquet as pq  # noqa: E402

pytestmark = pytest.mark.usefixtures("local_ray")

QUICK = ["--set", "templates=plain"]
PLAIN = {"templates": "plain"}


@pytest.mark.parametrize(
    "given, meant",
    [
        (["--ray", "photos"], ["--ray=", "photos"]),
        (["--ray", "10.0.0.1:6379", "photos"], ["--ray=10.0.0.1:6379", "photos"]),
        (["photos", "--ray"], ["photos", "--ray="]),
        (["--ray", "local", "--ray=auto"], ["--ray=local", "--ray=auto"]),
    ],
)
def test_an_address_may_follow(given, meant):
    assert with_address(given) == meant


def test_segment(tmp_path):
    (tmp_path / "in").mkdir()
    sp.draw_scene(seed=1, size=(96, 72)).picture.save(tmp_path / "in/a.png")
    (tmp_path / "in/b.png").write_bytes(b"-")
    command = ["segment", "--ray", str(tmp_path / "in"), "-l", "cat, grass", "-m", "demo", "-o", str(tmp_path / "out")]
    result = CliRunner().invoke(app, [*command, *QUICK, "--files", "--json"])
    assert result.exit_code == 1, result.output  # one failed
    said = json.loads(result.stdout.splitlines()[0])
    assert said == {
        "results": str(tmp_path / "out/results.parquet"), "blocks": 1, "computed": 1, "pictures": 2, "failed": 1,
    }  # fmt: skip
    assert len(pq.read_table(said["results"])) == 2 and (tmp_path / "out/a.overlay.png").is_file()
    again = CliRunner().invoke(app, [*command, *QUICK, "--files"])
    assert again.exit_code == 1 and again.stdout.startswith("nothing left to do: all 1 blocks are in")
    assert "1 failed; their rows have the reason" in again.stderr
    refused = CliRunner().invoke(app, [*command, "--format", "coco"])
    assert "--format does not go with --ray" in str(refused.exception)


def test_nobody_at_the_address(monkeypatch, local_ray):
    """Said at once: ray.init alone would try for minutes. In a process that has no Ray yet."""
    import ray
    from sclip_plugin.integrations.ray import start_ray

    ray.shutdown()
    with pytest.raises(SettingError, match="no Ray at '127.0.0.1:1'"):
        start_ray("127.0.0.1:1")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:2")
    with pytest.raises(SettingError, match="no Ray at '127.0.0.1:2'"):
        start_ray()
    monkeypatch.delenv("RAY_ADDRESS")
    ray.init(**local_ray)


def test_an_index_of_another_model_than_the_workers_is_refused(tmp_path):
    """Its vectors would be signed with the driver's weights."""
    from sclip_plugin.integrations.ray import RayLook

    (tmp_path / "in").mkdir()
    sp.draw_scene(0).picture.save(tmp_path / "in/0.png")
    segmenter = sp.Segmenter.from_pretrained("demo", device="cpu", **PLAIN)
    next(segmenter.model.parameters()).data.add_(0.1)
    with pytest.raises(SclipError, match="has other weights than the driver's"):
        sp.Index.build(segmenter, tmp_path / "in", tmp_path / "index", look=RayLook(None, "demo", workers=1))


@pytest.mark.parametrize(
    "command, says",
    [
        (["segment", "p.png", "-l", "cat", "-m", "demo", "--files"], "--files and --retry go with --ray"),
        (["segment", "p.png", "-l", "cat", "-m", "demo", "--ray", "--dtype", "nonsense"], "nonsense"),
        (["segment", "p.png", "-l", "cat", "-m", "demo", "--ray", "--device", "cuda"], "0 GPUs; expected 'cpu'"),
        (["segment", "p.png", "-l", "cat", "-m", "demo", "--ray", "--style", "outline"], "--style does not go with"),
        (["eval", "mvtec", "--ray", "--data", "."], "not with --check, mvtec, or torchrun"),
        (["eval", "--check", ".", "--ray"], "not with --check, mvtec, or torchrun"),
        (["eval", "demo", "--scenes", "2", "--ray", "--set", "masks=empty", "--set", "steps=vote"], "empty"),
    ],
)
def test_what_does_not_go_together_is_said_in_a_sentence(tmp_path, monkeypatch, command, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    sp.draw_scene(0).picture.save("p.png")
    refused = CliRunner().invoke(app, [*command, *(["-o", "out"] if "segment" in command else [])])
    assert says in str(refused.exception) and isinstance(refused.exception, SclipError), refused.exception
    assert len(str(refused.exception)) < 500


def test_a_limit_on_pixels_reaches_the_workers(tmp_path, monkeypatch):
    """Of a picture that is too large for it, as without Ray, nothing comes but why."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)  # put back afterwards
    (tmp_path / "in").mkdir()
    sp.draw_scene(0).picture.save(tmp_path / "in/0.png")
    common = ["-m", "demo", *QUICK, "--max-pixels", "100", "--ray"]
    index = CliRunner().invoke(app, ["index", str(tmp_path / "in"), "-o", str(tmp_path / "index"), *common])
    assert index.exit_code == 1 and "0.png: " in index.stderr and "0 pictures" in index.stdout
    segment = ["segment", str(tmp_path / "in"), "-l", "cat", "-o", str(tmp_path / "out"), *common]
    assert CliRunner().invoke(app, segment).exit_code == 1
    (row,) = pq.read_table(tmp_path / "out/results.parquet").to_pylist()
    assert "pixels" in row["error"] and "0.png" in row["error"]


def test_index_is_the_one_of_a_process(tmp_path):
    """Rows come in another order; they say the same, and the second call has nothing to look at."""
    (tmp_path / "in").mkdir()
    for seed in range(40):  # two blocks, of which each has one picture twice
        sp.draw_scene(seed=seed % 38, size=(96, 72)).picture.save(tmp_path / f"in/{seed:02d}.png")
    (tmp_path / "in/broken.png").write_bytes(b"-")
    built = {}
    for name, more in {"ray": ["--ray"], "here": []}.items():
        command = ["index", str(tmp_path / "in"), "-o", str(tmp_path / name), "-m", "demo", *QUICK, *more]
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 1 and "40 pictures" in result.stdout, (result.output, result.exception)
        built[name] = sp.Index(tmp_path / name, sp.Segmenter.from_pretrained("demo", device="cpu", **PLAIN))
        again = CliRunner().invoke(app, command)
        assert "40 of 41 pictures" in again.stderr.splitlines()[0], "only the unreadable one is tried again"
    hits = {name: {hit.path: hit for hit in index.search("cat", top=40)} for name, index in built.items()}
    assert len(hits["ray"]) == 40 and hits["ray"].keys() == hits["here"].keys()
    for path, hit in hits["ray"].items():
        assert abs(hit.score - hits["here"][path].score) < 2e-3  # in 8 bits
    assert len(built["ray"].store.contents) == 38 and list(built["ray"].failed()) == ["broken.png"]


def test_eval_has_the_same_integer_counts(tmp_path, monkeypatch, workers):
    """Two workers, of which one is killed in the middle, as one process."""
    from sclip_plugin.integrations.ray.evaluation import RayEvaluation

    killed = []
    evaluate = RayEvaluation.evaluate

    def with_a_kill(self, data, preset, changes, output, report, **options):
        def kill_one(done, of):
            if not killed and done < of:
                killed.append(workers()[0])
                os.kill(killed[0], signal.SIGKILL)

        return evaluate(self, data, preset, changes, output, kill_one, **options)

    monkeypatch.setattr(RayEvaluation, "evaluate", with_a_kill)
    from_two = _eval(tmp_path / "two", "--ray")
    assert killed
    assert from_two == _eval(tmp_path / "one")


def _eval(out, *more):
    command = ["eval", "demo", "--scenes", "60", *QUICK, "--out", str(out), *more]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, (result.output, result.exception)
    content = json.loads((out / "demo/demo-csa/results.json").read_text())
    return {name: content[name] for name in ("classes", "miou", "per_picture", "settings", "pictures")}

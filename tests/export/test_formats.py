"""What holds for every format, and for the command line."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import sclip_plugin as sp
from sclip_plugin.cli import program
from sclip_plugin.errors import MissingPackageError, RegistrationError, SettingError, UnknownNameError
from sclip_plugin.export import Format, list_formats, open_export, register_format
from sclip_plugin.export.registry import FORMATS
from sclip_plugin.segment.results import is_result

from .pictures import LABELS, MAPS, blobs, result

WITHOUT_PICTURE = {"coco", "coco-polygons", "csv", "cvat", "geojson", "labelstudio", "png", "scores"}


@pytest.mark.filterwarnings("ignore:no font on this machine")
@pytest.mark.parametrize("name", list_formats())
class TestEveryFormat:
    def test_it_says_what_it_is_for(self, name):
        assert 20 < len(FORMATS[name].help) < 120 and FORMATS[name].__doc__

    def test_what_it_names_is_there_and_nothing_else(self, name, tmp_path):
        with open_export(name, tmp_path / "new", LABELS) as out:
            out.add(result(blobs()), "day1/a", "in/day1/a.jpg")
            out.add(result(MAPS["rings"]), "day2/b", "in/day2/b.jpg")
        assert {*out.written} == {path for path in (tmp_path / "new").rglob("*") if path.is_file()}
        assert len(out.written) == len({*out.written})

    def test_pictures_that_it_writes_are_no_input(self, name, tmp_path):
        for path in result(blobs()).export(tmp_path, name):
            assert path.suffix != ".png" or is_result(path)

    def test_the_same_result_gives_the_same_bytes(self, name, tmp_path):
        once, again = (result(blobs()).export(tmp_path / folder, name) for folder in "ab")
        assert [path.read_bytes() for path in once] == [path.read_bytes() for path in again]

    def test_a_name_that_is_no_text_costs_no_other_picture_its_place(self, name, tmp_path):
        with open_export(name, tmp_path / "out", LABELS) as out:
            for file in (b"a.png", b"caf\xe9.png"):
                stem = os.fsdecode(file[:-4])
                out.add(result(blobs()), stem, os.fsdecode(file))
        assert out.written and all(path.stat().st_size for path in out.written)

    def test_nothing_labelled_is_no_error(self, name, tmp_path):
        result(np.full((20, 30), -1)).export(tmp_path, name)

    def test_a_label_map_alone(self, name, tmp_path):
        made = sp.Segmentation(LABELS, blobs(), scores=np.zeros((5, 15, 20)))
        if name in WITHOUT_PICTURE:
            assert made.export(tmp_path, name)
        else:
            with pytest.raises(SettingError, match=f"picture.*{name}"):
                made.export(tmp_path, name)

    def test_other_labels_are_refused(self, name, tmp_path):
        with pytest.raises(SettingError, match="expected \\['x'\\]"):
            open_export(name, tmp_path, ["x"]).add(result(blobs()))

    def test_an_error_leaves_no_file_over_all_pictures(self, name, tmp_path):
        with pytest.raises(KeyError), open_export(name, tmp_path, LABELS):
            raise KeyError
        assert list(tmp_path.iterdir()) == []


class TestOptions:
    @pytest.mark.parametrize(
        ("error", "words", "options"),
        [
            (SettingError, "no option 'colour'.*min_area, regions, tolerance", {"colour": 1}),
            (SettingError, "'components' or 'classes'", {"regions": "all"}),
            (SettingError, "min_area=-1", {"min_area": -1}),
            (SettingError, "tolerance=nan", {"tolerance": float("nan")}),
        ],
    )
    def test_what_is_wrong_is_said(self, tmp_path, error, words, options):
        with pytest.raises(error, match=words):
            result(blobs()).export(tmp_path, "coco", **options)

    def test_an_unknown_format_names_the_known(self, tmp_path):
        with pytest.raises(UnknownNameError, match="Did you mean 'coco'.*labelme"):
            result(blobs()).export(tmp_path, "cocoo")

    def test_a_missing_package_is_said_with_its_extra(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "pycocotools", None)
        monkeypatch.setitem(sys.modules, "pycocotools.mask", None)
        with pytest.raises(MissingPackageError, match=r'pycocotools: pip install "sclip_plugin\[export\]"'):
            result(blobs()).export(tmp_path, "coco")

    def test_min_area_and_regions_are_kept_to(self, tmp_path):
        (path,) = result(MAPS["specks"]).export(tmp_path, "coco", min_area=4)
        assert [entry["area"] for entry in json.loads(path.read_text())["annotations"]] == [40, 20, 4]
        (path,) = result(MAPS["specks"]).export(tmp_path, "coco", regions="classes")
        assert [entry["area"] for entry in json.loads(path.read_text())["annotations"]] == [40, 20, 15, 4, 3]


def test_a_format_of_ones_own(tmp_path):
    try:

        @register_format("sizes")
        class Sizes(Format):
            """The size of each picture."""

            suffix = ".txt"

            def write(self, item):
                self.path(item).write_text(f"{item.result.size}")
                return [self.path(item)]

        (path,) = result(blobs()).export(tmp_path, "sizes")
        assert path.name == "picture.txt" and path.read_text() == "(150, 200)"
        with pytest.raises(RegistrationError, match="sizes"):
            register_format("sizes")(Sizes)
    finally:
        FORMATS._classes.pop("sizes")


@pytest.fixture
def sclip(tmp_path, monkeypatch, capsys):
    """Runs ``sclip segment`` with the demo model on two scenes: its exit code, what it printed, what it said."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for seed in (0, 1):
        path = tmp_path / f"in/{'sub/' * seed}s{seed}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        sp.draw_scene(seed=seed).picture.save(path)

    def run(*arguments):
        fixed = ["sclip", "segment", "in", "-l", "sheep,crab,tent,sky", "-m", "demo", "-o", "out", "--set"]
        monkeypatch.setattr(sys, "argv", [*fixed, "templates=plain", *arguments])
        code = 0
        try:
            program.run()
        except SystemExit as end:
            code = end.code or 0
        return (code, *capsys.readouterr())

    return run


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class TestCommandLine:
    def test_all_formats_over_a_folder(self, sclip, tmp_path):
        code, printed, said = sclip("--format", ",".join(list_formats()))
        assert code == 0, said
        assert {path.name for path in (tmp_path / "out").iterdir() if path.is_dir()} >= {*list_formats()}
        coco = json.loads((tmp_path / "out/coco/annotations.json").read_text())
        assert [entry["file_name"] for entry in coco["images"]] == ["s0.png", "sub/s1.png"]
        assert "coco: " in printed and "sub/s1.geojson" in content(tmp_path / "out/geojson")
        made = sp.Segmentation.load(tmp_path / "out", "sub/s1")
        areas = {entry["id"]: 0 for entry in coco["categories"]}
        for entry in coco["annotations"]:
            areas[entry["category_id"]] += entry["area"] * (entry["image_id"] == 2)
        assert list(areas.values()) == [int(made.mask(label).sum()) for label in made.labels]

    def test_going_on_gives_the_same_files(self, sclip, tmp_path):
        formats = "coco,csv,cvat,labelstudio,yolo,labelme"
        sclip("--format", formats)
        whole = content(tmp_path / "out")
        (tmp_path / "out/s0.json").unlink()
        code, _, said = sclip("--format", formats, "--resume")
        assert code == 0 and "1 done, 1 skipped" in said
        assert content(tmp_path / "out") == whole

    def test_another_format_over_all_needs_no_model_again(self, sclip, tmp_path):
        sclip()
        assert "0 done, 2 skipped" in sclip("--format", "csv", "--resume")[2]
        assert (tmp_path / "out/csv/labels.csv").is_file()
        assert "2 done, 0 skipped" in sclip("--format", "labelme", "--resume")[2]

    def test_what_is_printed_as_json(self, sclip):
        code, printed, _ = sclip("--format", "coco,labelme", "--json")
        *pictures, last = map(json.loads, printed.splitlines())
        assert [Path(entry["exported"]["labelme"][0]).name for entry in pictures] == ["s0.json", "s1.json"]
        assert last["status"] == "exported" and Path(last["formats"]["coco"][0]).is_file()

    @pytest.mark.parametrize("arguments", [("--format", "coko"), ("--format", "coco", "--regions", "all")])
    def test_mistakes_are_said_before_a_model_is_read(self, sclip, tmp_path, arguments):
        code, printed, said = sclip(*arguments, "-m", "no-such-model")
        assert code == 2 and not printed and ("coco" in said or "components" in said)
        assert not (tmp_path / "out").exists() and not (tmp_path / "-").exists()

    def test_a_second_run_sees_the_same_pictures(self, sclip):
        for _ in range(2):
            code, printed, said = sclip("--format", "yolo,png,cutouts", "-o", "in")
            assert code == 0 and "2 done" in said


def pictures_of(folder: Path) -> dict[str, list[str]]:
    """What the files over all pictures hold, by format."""
    import csv
    from xml.etree import ElementTree

    coco = json.loads((folder / "coco/annotations.json").read_text())
    names = {image["id"]: image["file_name"] for image in coco["images"]}
    assert {entry["image_id"] for entry in coco["annotations"]} == {*names}
    tasks = json.loads((folder / "labelstudio/tasks.json").read_text())
    with open(folder / "csv/labels.csv", newline="", encoding="utf-8") as file:
        rows = {row["picture"] for row in csv.DictReader(file)}
    images = ElementTree.parse(folder / "cvat/annotations.xml").iter("image")
    return {
        "coco": sorted(names.values()),
        "labelstudio": sorted(task["data"]["image"].rpartition("=")[2] for task in tasks),
        "csv": sorted(Path(row).name for row in rows),
        "cvat": sorted(str(image.get("name")) for image in images),
    }


class TestAnEarlierExport:
    """An export is added to; what can't be kept is refused or said."""

    formats = ("--format", "coco,labelstudio,csv,cvat,sheet,yolo")

    @pytest.fixture
    def sclip(self, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        for seed in range(4):
            sp.draw_scene(seed=seed, size=(64, 64)).picture.save(tmp_path / f"s{seed}.png")

        def run(*arguments, labels="sheep,crab,tent,sky"):
            fixed = [
                "sclip",
                "segment",
                "-l",
                labels,
                "-m",
                "demo",
                "-o",
                "out",
                "--templates",
                "plain",
                "--present",
                "no",
            ]
            monkeypatch.setattr(sys, "argv", [*fixed, *arguments])
            code = 0
            try:
                program.run()
            except SystemExit as end:
                code = end.code or 0
            return code, capsys.readouterr().err

        return run

    @pytest.mark.parametrize("more", [(), ("--resume",)])
    def test_a_name_that_is_mistyped_leaves_it_as_it_is(self, sclip, tmp_path, more):
        sclip("s0.png", "s1.png", *self.formats)
        before = content(tmp_path / "out")
        code, said = sclip("typo.png", *self.formats, *more)
        assert code == 2 and "no such picture: typo.png" in said
        assert content(tmp_path / "out") == before
        sclip("typo.png", "-o", "new", *self.formats)
        assert not content(tmp_path / "new")

    @pytest.mark.parametrize("more", [(), ("--resume",)])
    def test_other_pictures_stay_in_it(self, sclip, tmp_path, more):
        sclip("s0.png", "s1.png", "s2.png", *self.formats)
        for second in (("s1.png",), ("s3.png", "typo.png")):
            sclip(*second, *self.formats, *more)
        names = ["s0.png", "s1.png", "s2.png", "s3.png"]
        assert pictures_of(tmp_path / "out") == dict.fromkeys(["coco", "labelstudio", "csv", "cvat"], names)
        sclip(*names, *self.formats, "-o", "whole")
        once, whole = (pictures_of(tmp_path / folder) for folder in ("out", "whole"))
        assert once == whole

    def test_a_result_that_is_gone_is_said(self, sclip, tmp_path):
        sclip("s0.png", "s1.png", *self.formats)
        (tmp_path / "out/s0.json").unlink()
        code, said = sclip("s2.png", *self.formats)
        assert code == 0 and "no longer hold 1 other pictures (s0)" in said
        assert pictures_of(tmp_path / "out")["coco"] == ["s1.png", "s2.png"]

    @pytest.mark.parametrize("format", ["coco", "yolo", "csv"])
    def test_other_pictures_with_other_labels_are_not_lost(self, sclip, tmp_path, format):
        sclip("s0.png", "s1.png", "--format", format)
        before = content(tmp_path / "out")
        code, said = sclip("s1.png", "--format", format, labels="fox,sky")
        assert code == 2 and "1 other pictures (s0) with other labels" in said
        assert content(tmp_path / "out") == before
        assert sclip("s0.png", "s1.png", "--format", format, labels="fox,sky")[0] == 0

    def test_one_that_somebody_has_changed_is_not_replaced(self, sclip, tmp_path):
        sclip("s0.png", "--format", "coco")
        path = tmp_path / "out/coco/annotations.json"
        path.write_text(path.read_text().replace("sheep", "ewe"))
        code, said = sclip("s1.png", "--format", "coco")
        assert code == 2 and "annotations.json was changed since" in said and "ewe" in path.read_text()

    def test_a_folder_of_somebody_else_is_not_written_into(self, sclip, tmp_path):
        (tmp_path / "out/coco").mkdir(parents=True)
        (tmp_path / "out/coco/annotations.json").write_text("{}")
        code, said = sclip("s0.png", "--format", "coco")
        assert code == 2 and "did not write it" in said
        assert (tmp_path / "out/coco/annotations.json").read_text() == "{}"

    def test_a_spoilt_record_is_refused(self, sclip, tmp_path):
        sclip("s0.png", "--format", "coco")
        for content in ("[]", "{", '{"labels": 1}', '{"labels": [], "pictures": {"a": 1}, "files": {}}'):
            (tmp_path / "out/coco/.sclip-export").write_text(content)
            code, said = sclip("s0.png", "--format", "coco")
            assert code == 2 and ".sclip-export" in said


def test_a_killed_run_goes_on_to_the_same_files(tmp_path):
    for seed in range(5):
        sp.draw_scene(seed=seed).picture.save(tmp_path / f"{seed}.png")
    environment = {
        **os.environ,
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    environment["OMP_NUM_THREADS"] = "1"

    def command(out):
        pictures = [str(tmp_path / f"{seed}.png") for seed in range(5)]
        labels = ["-l", "sheep,crab,tent,sky", "-m", "demo", "--set", "templates=plain", "--resume"]
        formats = ["--format", "coco,csv,yolo,geojson,sheet", "-o", str(tmp_path / out)]
        return [sys.executable, "-m", "sclip_plugin", "segment", *pictures, *labels, *formats]

    process = subprocess.Popen(command("out"), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not (tmp_path / "out/1.json").is_file():
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert not (tmp_path / "out/coco/annotations.json").exists()
    for out in ("out", "whole"):
        subprocess.run(command(out), env=environment, check=True, capture_output=True)
    assert content(tmp_path / "out") == content(tmp_path / "whole")

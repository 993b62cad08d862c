"""Which words a collection shows, and in which pictures."""

from __future__ import annotations

import sys

import numpy as np
import pytest

import sclip_plugin as sp
from sclip_plugin.cli import program
from sclip_plugin.demo import CLASSES
from sclip_plugin.errors import LabelError, SettingError


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    path = tmp_path_factory.mktemp("list") / "own.txt"
    path.write_text("\n".join(CLASSES))
    return f"@auto:{path}"


def test_names_are_those_of_the_scenes(built, scenes, own):
    names = built.names(own)
    found: dict[str, set[str]] = {}
    for word, paths in names.items():
        for path in paths:
            found.setdefault(path, set()).add(word)
    truth = {f"{'odd' if i % 2 else 'even'}/{i:02}.png": set(scene.labels) for i, scene in enumerate(scenes)}
    f1 = [2 * len(found[path] & there) / (len(found[path]) + len(there)) for path, there in truth.items()]
    assert np.mean(f1) > 0.9
    counts = [len(paths) for paths in names.values()]
    assert counts == sorted(counts, reverse=True)


def test_the_picture_that_shows_most_of_it_comes_first(built, scenes, own):
    names = built.names(own)
    word = next(word for word, paths in names.items() if len(paths) > 2 and word in ("sky", "water", "grass", "snow"))
    shares = []
    for path in names[word]:
        scene = scenes[int(path[-6:-4])]
        shares.append((scene.label_map == scene.labels.index(word)).mean() if word in scene.labels else 0.0)
    assert shares[0] > np.mean(shares)


def test_the_same_picture_under_two_paths_counts_twice(seg, photos, own, tmp_path):
    twin = (photos / "00.png").read_bytes()
    (photos / "twin.png").write_bytes(twin)
    names = sp.Index.build(seg, photos, tmp_path / "index").names(own)
    assert any({"00.png", "twin.png"} <= set(paths) for paths in names.values())


def test_few_pictures_and_plain_labels_are_refused(built, seg, scenes, tmp_path):
    for number in range(4):
        scenes[number].picture.save(tmp_path / f"{number}.png")
    with pytest.raises(SettingError, match="5 or more"):
        sp.Index.build(seg, tmp_path, tmp_path / "index").names()
    with pytest.raises(LabelError, match="expected '@auto'"):
        built.names("cat")


def test_the_table_of_the_command_line(photos, tmp_path, own, monkeypatch, capsys):
    command = ["sclip", "index", photos, "-o", tmp_path / "index", "-m", "demo", "--names", own]
    monkeypatch.setattr(sys, "argv", [*map(str, command), "--quiet"])
    with pytest.raises(SystemExit) as stop:
        program.run()
    assert not stop.value.code
    head, *rows = capsys.readouterr().out.splitlines()
    assert head == "pictures  word, where"
    assert all(int(row.split()[0]) >= 1 and ".png" in row for row in rows) and len(rows) > 5

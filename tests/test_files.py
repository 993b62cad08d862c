"""What is written is the old file or the new one, whole."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sclip_plugin.storage.files import atomic_path, save_image, save_json, write_atomically


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_bytes_and_functions_are_written_and_parents_are_made(tmp_path):
    write_atomically(tmp_path / "a" / "b" / "one", b"1")
    write_atomically(tmp_path / "a" / "b" / "two", lambda file: file.write(b"2"))
    assert (tmp_path / "a/b/one").read_bytes() == b"1" and (tmp_path / "a/b/two").read_bytes() == b"2"
    assert names(tmp_path) == ["one", "two"]


def test_a_failing_writer_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "a.bin"
    write_atomically(target, b"old")

    def half(file):
        file.write(b"ne")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(target, half)
    assert target.read_bytes() == b"old" and names(tmp_path) == ["a.bin"]


def test_the_target_is_untouched_while_the_block_runs(tmp_path):
    target = tmp_path / "a.npy"
    write_atomically(target, b"old")
    with atomic_path(target) as lent:
        assert lent.parent == target.parent and lent.suffix == ".npy" and not lent.exists()
        np.save(lent, np.eye(2))
        assert target.read_bytes() == b"old"
    assert np.array_equal(np.load(target), np.eye(2)) and names(tmp_path) == ["a.npy"]


def test_a_block_that_writes_nothing_is_told_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing was written"), atomic_path(tmp_path / "a"):
        pass
    assert names(tmp_path) == []


WRITES_OFTEN = """
import sys
from sclip_plugin.storage.files import write_atomically
for _ in range(60):
    write_atomically(sys.argv[1], lambda file: [file.write(sys.argv[2].encode() * 4096) for _ in range(16)])
"""


def test_two_processes_never_mix_their_contents(tmp_path):
    target = tmp_path / "shared.bin"
    write_atomically(target, b"a" * 65536)
    writers = [subprocess.Popen([sys.executable, "-c", WRITES_OFTEN, str(target), letter]) for letter in "ab"]
    seen = set()
    while any(writer.poll() is None for writer in writers):
        content = target.read_bytes()
        assert len(content) == 65536 and len(set(content)) == 1
        seen |= set(content)
    assert [writer.wait() for writer in writers] == [0, 0] and seen == set(b"ab")
    assert names(tmp_path) == ["shared.bin"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
@pytest.mark.parametrize("mask, mode", [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_new_files_have_the_permissions_of_the_umask(tmp_path, mask, mode):
    before = os.umask(mask)
    try:
        write_atomically(tmp_path / "a", b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == mode


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_a_link_is_followed(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_atomically(tmp_path / "link", b"1")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_bytes() == b"1"


@pytest.mark.skipif(not Path(os.devnull).exists(), reason="needs a device file")
def test_folders_and_devices_are_refused(tmp_path):
    with pytest.raises(IsADirectoryError, match="folder"):
        write_atomically(tmp_path, b"")
    with pytest.raises(OSError, match="device"):
        write_atomically(os.devnull, b"")


def test_text_is_refused_with_the_way_out(tmp_path):
    with pytest.raises(TypeError, match="encode"):
        write_atomically(tmp_path / "a", "text")  # type: ignore[arg-type]
    assert names(tmp_path) == []


def test_very_long_and_foreign_names_can_be_written(tmp_path):
    for name in ("猫" * 80 + ".png", "x" * 250, "a" * 200 + ".json"):
        write_atomically(tmp_path / name, b"1")
        assert (tmp_path / name).read_bytes() == b"1"


def test_pictures_take_the_format_of_their_suffix(tmp_path):
    picture = Image.new("RGB", (3, 2), "red")
    save_image(picture, tmp_path / "a.PNG")
    save_image(picture, tmp_path / "a.jpg", quality=80)
    save_image(picture, tmp_path / "b", format="PNG")
    assert [Image.open(tmp_path / name).format for name in ("a.PNG", "a.jpg", "b")] == ["PNG", "JPEG", "PNG"]


def test_an_unknown_suffix_is_named_and_nothing_is_left(tmp_path):
    with pytest.raises(ValueError, match=r"'\.xyz'.*\.png"):
        save_image(Image.new("RGB", (1, 1)), tmp_path / "a.xyz")
    with pytest.raises(OSError):
        save_image(Image.new("RGBA", (1, 1)), tmp_path / "a.jpg")
    assert names(tmp_path) == []


def test_json_takes_numpy_and_writes_what_every_reader_takes(tmp_path):
    given = {"名": np.float32(0.5), "nan": [float("nan"), np.inf], "a": np.arange(3), "p": Path("x"), 1: (True, None)}
    save_json(given, tmp_path / "a.json")
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"名": 0.5, "nan": [None, None], "a": [0, 1, 2], "p": "x", "1": [True, None]}
    assert "名" in text and "NaN" not in text


def test_json_that_can_not_be_written_leaves_the_old_file(tmp_path):
    save_json([1], tmp_path / "a.json")
    with pytest.raises(TypeError, match="set"):
        save_json({"a": {1, 2}}, tmp_path / "a.json")
    assert json.loads((tmp_path / "a.json").read_text()) == [1]

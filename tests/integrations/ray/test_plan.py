"""Which pictures a job has, each once, and what its shards hold. Without Ray."""

import io
import os
import tarfile

import pytest
from PIL import Image

pytest.importorskip("pyarrow", reason="needs pyarrow: pip install 'sclip_plugin[ray]'")
import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
from sclip_plugin.integrations.ray.plan import Entry, JobError, find_entries, part_path, plan_of  # noqa: E402
from sclip_plugin.integrations.ray.sources import items_of  # noqa: E402

from sclip_plugin.errors import FileFormatError, PictureError  # noqa: E402


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 3)).save(path, "PNG")
    return path


def planned(out, *given, **identity):
    return [entry for block in plan_of(out, identity, find_entries([str(g) for g in given], out), 3) for entry in block]


def test_a_picture_is_planned_once_whatever_leads_to_it(tmp_path):
    photos = tmp_path / "photos"
    for name in ("a.png", "sub/a.png", "sub/b.png"):
        picture(photos / name)
    (tmp_path / "link").symlink_to(photos)
    entries = planned(tmp_path / "out", photos, photos / "sub")
    assert len(entries) == 3 == len({entry.stem for entry in entries})
    assert planned(tmp_path / "out", photos / ".." / "photos", tmp_path / "link") == entries


def test_stems_differ_from_those_of_earlier_calls(tmp_path):
    picture(tmp_path / "one/0.png")
    picture(tmp_path / "two/0.png")
    planned(tmp_path / "out", tmp_path / "one")
    assert [entry.stem for entry in planned(tmp_path / "out", tmp_path / "two")] == ["0", "0.2"]


def test_a_jobs_own_files_are_no_pictures(tmp_path):
    """Of this job, whose folder is that of the pictures, and of one beside it."""
    picture(tmp_path / "a.png")
    first = planned(tmp_path, tmp_path)
    for job in (tmp_path, tmp_path / "earlier"):
        plan_of(job, {}, [Entry("x")], 1)
        part_path(job, 0).parent.mkdir(exist_ok=True)
        pq.write_table(pa.table({"jpg": [b"-"]}), part_path(job, 0))
    with pytest.warns(UserWarning, match="results of earlier runs"):
        assert [entry for entry in planned(tmp_path, tmp_path) if entry.path != "x"] == first
    with pytest.raises(PictureError, match="no pictures in .*results of earlier runs"):
        find_entries([str(tmp_path / "earlier")], tmp_path / "out")


def test_what_is_not_looked_at_is_said(tmp_path):
    picture(tmp_path / "a.png")
    (tmp_path / "b.tar.gz").write_bytes(b"-")
    with pytest.warns(UserWarning, match="not looked at: 1 .gz"):
        find_entries([str(tmp_path)], tmp_path / "out")


def test_names_that_are_no_utf_8(tmp_path):
    odd = os.fsdecode(b"\xff.png")
    picture(tmp_path / "photos" / odd)
    (entry,) = planned(tmp_path / "out", tmp_path / "photos")
    assert os.path.exists(entry.path) and planned(tmp_path / "out", tmp_path / "photos") == [entry]


def test_another_job_is_refused(tmp_path):
    picture(tmp_path / "a.png")
    planned(tmp_path / "out", tmp_path / "a.png", files=False)
    with pytest.raises(JobError, match="files was False, now it is True"):
        planned(tmp_path / "out", tmp_path / "a.png", files=True)


def tar_of(path, names):
    data = picture(path.with_suffix(".png")).read_bytes()
    with tarfile.open(path, "w") as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def read(path):
    """Names of members, and what ended them."""
    names = []
    try:
        for item in items_of([Entry(str(path), 0, path.name)]):
            names.append(item.key)
    except (FileFormatError, tarfile.TarError, OSError) as error:
        return names, error
    return names, None


def test_members_of_one_stem_have_files_of_their_own(tmp_path):
    tar_of(tmp_path / "t.tar", ["a.jpg", "a.png", "b.png", "b.png"])
    stems = [item.stem for item in items_of([Entry(str(tmp_path / "t.tar"), 0, "t.tar")])]
    assert stems == ["t.tar/a", "t.tar/a.2", "t.tar/b", "t.tar/b.2"]


@pytest.mark.parametrize("damage", ["overwritten", "cut in a header", "cut before a header", "cut in a picture"])
def test_a_tar_that_is_broken_says_so(tmp_path, damage):
    """tarfile takes a header that is broken or missing for the end."""
    path = tmp_path / "t.tar"
    tar_of(path, [f"{i}.png" for i in range(5)])
    assert read(path) == ([f"{i}.png" for i in range(5)], None)
    with tarfile.open(path) as tar:
        third = tar.getmembers()[2]
    data = path.read_bytes()
    if damage == "overwritten":
        data = data[: third.offset] + os.urandom(512) + data[third.offset + 512 :]
    else:
        places = {"cut before a header": third.offset, "cut in a header": third.offset + 100}
        data = data[: places.get(damage, third.offset_data + 20)]
    path.write_bytes(data)
    names, error = read(path)
    assert names == ["0.png", "1.png"] and error is not None

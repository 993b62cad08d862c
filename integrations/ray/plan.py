"""What a job is made of: blocks of pictures that never change once they are written down, and what the job is.

A job's folder holds ``job.json`` (model, labels, settings), ``plan.parquet`` (which picture is in which block) and
``results.parquet/``, one part for each block that is done. A block is a list of picture files, a row group of a Parquet
file, or a tar file.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ...cli.pictures import NamedPicture, find_pictures, folded, unused, with_stems
from ...errors import FileFormatError, PictureError, SclipError
from ...imaging.fetching import is_url
from ...storage.files import atomic_path, locked_folder, save_json

PLAN = "plan.parquet"
SHARDS = (".parquet", ".tar")
"""Files that hold many pictures."""

_PLAN = pa.schema([("block", pa.int32()), ("path", pa.binary()), ("group", pa.int32()), ("stem", pa.binary())])


class JobError(SclipError, ValueError):
    """The output folder belongs to another job."""


@dataclass(frozen=True)
class Entry:
    """What a block holds: a picture file (by its path or URL), or pictures of a shard.

    Fields:
        path: of the file.
        group: of a Parquet file which row group; of a tar 0; -1 for a picture file.
        stem: what a picture's results are called; before the names of a shard's.
    """

    path: str
    group: int = -1
    stem: str = ""


def find_entries(arguments: Sequence[str], out: Path) -> list[Entry]:
    """Pictures and shards that files, folders, patterns and URLs name, in order, with absolute paths.

    Raises:
        PictureError: there are none.
        FileFormatError: a Parquet file that can't be read.
    """
    found = find_pictures(list(arguments), out, shards=SHARDS)
    entries: list[Entry] = []
    for picture, stem in with_stems(found.pictures):
        name = picture.given if is_url(picture.given) else _in_its_folder(picture.given)
        if not _is_shard(picture):
            entries.append(Entry(name, -1, stem))
        elif _is_of_a_job(Path(name)):
            found.own += 1
        else:
            entries += [Entry(name, group, str(picture.relative)) for group in range(_groups(name))]
    if not entries:
        raise PictureError(f"no pictures in {', '.join(arguments)}. Not looked at: {found.left_out()}.")
    if found.left_out():
        warnings.warn(f"not looked at: {found.left_out()}.", stacklevel=3)
    return entries


def plan_of(folder: Path, identity: dict[str, Any], entries: Iterable[Entry], size: int) -> list[list[Entry]]:
    """The job's blocks: those that are written down, and new ones of what is in none of them yet.

    Args:
        folder: of the job; made where it is missing.
        identity: all that results depend on, as plain values.
        entries: of this call.
        size: picture files in a new block.

    Raises:
        JobError: the folder holds results of another job; the message names what differs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with locked_folder(folder):
        _check_identity(folder / "job.json", json.loads(json.dumps(identity)))
        path = folder / PLAN
        blocks = _read(path)
        new = _unknown(entries, [entry for block in blocks for entry in block])
        files = [entry for entry in new if entry.group < 0]
        blocks += [files[first : first + size] for first in range(0, len(files), size)]
        blocks += [[entry] for entry in new if entry.group >= 0]
        if new:
            rows = [
                {
                    "block": index,
                    "path": os.fsencode(entry.path),
                    "group": entry.group,
                    "stem": os.fsencode(entry.stem),
                }
                for index, block in enumerate(blocks)
                for entry in block
            ]
            with atomic_path(path) as lent:
                pq.write_table(pa.Table.from_pylist(rows, _PLAN), lent)
    return blocks


def _unknown(entries: Iterable[Entry], known: Sequence[Entry]) -> list[Entry]:
    """Entries that are not known yet, each once, under stems that nothing else has."""
    seen = {(entry.path, entry.group) for entry in known}
    stems = {entry.path: entry.stem for entry in known}
    used = {folded(stem) for stem in stems.values()}
    new = []
    for entry in entries:
        if (entry.path, entry.group) in seen:
            continue
        seen.add((entry.path, entry.group))
        if entry.path not in stems:  # row groups of one file share theirs
            stems[entry.path] = unused(entry.stem, used)
        new.append(replace(entry, stem=stems[entry.path]))
    return new


def _in_its_folder(path: str) -> str:
    """An absolute path that is the same by whatever way the folder was reached; the file itself may be a link."""
    folder, name = os.path.split(path)
    return os.path.join(os.path.realpath(folder), name)


def _is_of_a_job(path: Path) -> bool:
    """Whether a Parquet file is the plan or a part of a job's results."""
    job = path.parent.parent if path.parent.name == "results.parquet" else path.parent if path.name == PLAN else None
    return job is not None and (job / "job.json").exists()


def part_path(folder: Path, block: int) -> Path:
    """Where a block's results lie once it is done."""
    return folder / "results.parquet" / f"part-{block:07d}.parquet"


def attempts_path(folder: Path, block: int) -> Path:
    """Where it is noted how attempts at a block went, while it is not done."""
    return folder / "attempts" / f"{block:07d}.txt"


def _check_identity(path: Path, identity: dict[str, Any]) -> None:
    if not path.exists():
        save_json(identity, path)
        return
    found = json.loads(path.read_text(encoding="utf-8"))
    for key in sorted({*found, *identity}, key=lambda key: (key == "identity", key)):
        if found.get(key) != identity.get(key):
            raise JobError(
                f"{path.parent} holds results of another job: {key} was {found.get(key)!r:.200}, now it is "
                f"{identity.get(key)!r:.200}. Give another folder with --out."
            )


def _read(path: Path) -> list[list[Entry]]:
    if not path.exists():
        return []
    blocks: list[list[Entry]] = []
    for row in pq.read_table(path).to_pylist():
        if row["block"] == len(blocks):
            blocks.append([])
        blocks[row["block"]].append(Entry(os.fsdecode(row["path"]), row["group"], os.fsdecode(row["stem"])))
    return blocks


def _is_shard(picture: NamedPicture) -> bool:
    return picture.relative.suffix.lower() in SHARDS and not is_url(picture.given)


def _groups(path: str) -> int:
    if not path.lower().endswith(".parquet"):
        return 1
    try:
        return int(pq.read_metadata(path).num_row_groups)
    except (pa.ArrowException, OSError) as error:
        raise FileFormatError(f"{path} is no Parquet file that can be read: {error}") from error

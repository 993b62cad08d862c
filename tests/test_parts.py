"""Folders of parts: numbered on whatever is removed, and no byte of one changes in silence."""

import json

import numpy as np
import pytest
import torch

from sclip_plugin.errors import FileFormatError
from sclip_plugin.memory import MemoryStore


@pytest.fixture
def store(tmp_path):
    made = MemoryStore.create(tmp_path / "bank", {})
    for number in range(3):
        rows = torch.nn.functional.normalize(torch.randn(4, 8), dim=1)
        made.append([(f"picture {number}", 4)], rows, {"main": torch.randn(4, 6)})
    return made


def test_numbers_go_on_where_a_part_was_removed(store):
    shards = store.parts()
    shards[0].unlink()
    last = shards[2].read_bytes()
    store.append([("picture 3", 1)], torch.ones(1, 8), {"main": torch.ones(1, 6)})
    assert [part.stem for part in store.parts()] == ["shard-000001", "shard-000002", "shard-000003"]
    assert shards[2].read_bytes() == last and list(store.pictures()) == ["picture 1", "picture 2", "picture 3"]


def test_no_changed_byte_of_a_memory_is_taken(store):
    folder, shard = store.folder, store.parts()[1]
    whole = shard.read_bytes()

    def content():
        opened = MemoryStore(folder)
        return opened.pictures(), opened.keys.tolist(), opened.values("main", torch.arange(12)).tolist()

    expected, refused = content(), 0
    for at in np.random.default_rng(0).integers(0, len(whole), 60).tolist():
        shard.write_bytes(whole[:at] + bytes([whole[at] ^ 16]) + whole[at + 1 :])
        try:
            assert content() == expected  # a blank of the header
        except FileFormatError as error:
            assert shard.name in str(error) and "Remove it" in str(error)
            refused += 1
    assert refused > 40


@pytest.mark.parametrize("head", ["", "[]", "3", '{"format": 1}', '{"format": "sclip_plugin memory 1"}', "[" * 9000])
def test_a_head_that_is_none_is_said(store, head):
    (store.folder / "bank.json").write_text(head)
    with pytest.raises(FileFormatError, match="is no memory"):
        MemoryStore(store.folder)


def test_a_head_with_other_types_is_said(store):
    (store.folder / "bank.json").write_text(json.dumps({"format": "sclip_plugin memory 2", "models": []}))
    assert MemoryStore(store.folder).made_by["models"] == []

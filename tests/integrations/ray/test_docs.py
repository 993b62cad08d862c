"""What docs/ray.md shows."""

import pages
import pytest

pytest.importorskip("ray.data", reason="needs Ray Data: pip install 'sclip_plugin[ray]'")
import pyarrow.parquet as pq  # noqa: E402
import ray  # noqa: E402


def test_page(tmp_path, monkeypatch, local_ray):
    monkeypatch.chdir(tmp_path)
    ray.shutdown()
    ray.init(**local_ray)  # workers stay in the folder where Ray was started
    with pages.nothing_stays():
        pages.furnish(tmp_path)
        names = pages.run_blocks("ray")
    assert (names["summary"].pictures, names["summary"].failed) == (5, 0)
    segments = pq.read_table(tmp_path / "segments").to_pylist()
    assert len(segments) == 5 and all(row["error"] is None for row in segments)
    assert any(row["segments"] for row in segments)

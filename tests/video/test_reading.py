"""Frames of a file: which, when, upright, in colour, and what of a broken one."""

import contextlib
import socket
import struct
import threading
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from sclip_plugin.errors import FileFormatError, PictureNotFoundError, SettingError
from sclip_plugin.video import Video, reading
from sclip_plugin.video.reading import spread

from .films import encoded, still

MATRICES = {  # of a track's header: a, b, c, d of (x, y) -> (a x + c y, b x + d y); what it makes of a picture
    "quarter": ((0, 1, -1, 0), Image.Transpose.ROTATE_270),
    "half": ((-1, 0, 0, -1), Image.Transpose.ROTATE_180),
    "three quarters": ((0, -1, 1, 0), Image.Transpose.ROTATE_90),
    "mirrored": ((-1, 0, 0, 1), Image.Transpose.FLIP_LEFT_RIGHT),
    "mirrored and turned": ((0, 1, 1, 0), Image.Transpose.TRANSPOSE),
}


def turned(path, matrix):
    """Put a matrix into an MP4's track header, as phones write it."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40  # version, times, id, duration, layer, volume come first
    a, b, c, d = (side * 2**16 for side in matrix)
    assert struct.unpack_from(">i", data, at)[0] == 2**16, "the identity is there"
    struct.pack_into(">9i", data, at, a, b, 0, c, d, 0, 0, 0, 2**30)
    path.write_bytes(data)


def grey(frame):
    return float(np.asarray(frame.picture).mean())


def written(path, frames, time_base, container="matroska", rate=25, **stream_settings):
    """A video of grey frames with times of their own: (time in units of the base, grey)."""
    with av.open(str(path), "w", format=container) as out:
        stream = out.add_stream("libx264", rate=rate)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = time_base
        for name, value in stream_settings.items():
            setattr(stream.codec_context, name, value)
        for pts, value in frames:
            frame = av.VideoFrame.from_image(Image.new("RGB", (64, 48), (value,) * 3))
            frame.pts, frame.time_base = pts, time_base
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))


@pytest.mark.parametrize(
    ("fps", "indices"),
    [(1, range(0, 40, 5)), (0.25, [0, 20]), (5, range(40)), (2.5, range(0, 40, 2)), (10, np.arange(80) // 2)],
)
def test_frames_come_at_the_rate_that_is_asked_for(film, fps, indices):
    video = Video(film)
    frames = list(video.frames(fps))
    assert [frame.index for frame in frames] == list(indices)
    assert [frame.time for frame in frames] == pytest.approx(np.arange(len(frames)) / fps)
    assert video.duration == pytest.approx(8.0) and frames[0].picture.size == (128, 96)


def test_pictures_are_those_of_the_film(film, scenes):
    for frame, scene in zip(list(Video(film).frames(0.5)), scenes, strict=True):
        difference = np.abs(np.asarray(frame.picture, float) - np.asarray(scene.picture, float))
        assert difference.mean() < 6 and np.median(difference) <= 3, "but for what the codec loses"


def test_of_a_variable_rate_times_say_what_is_shown(tmp_path):
    path = tmp_path / "screen.mkv"
    written(path, [(0, 30), (400, 80), (3200, 130), (3300, 180), (5000, 230)], Fraction(1, 1000))
    frames = list(Video(path).frames(1))
    assert [frame.index for frame in frames] == [0, 1, 1, 1, 3, 4]
    assert [round(grey(frame) / 50) for frame in frames] == [1, 2, 2, 2, 4, 5]


def test_rounded_times_take_every_frame_once(tmp_path):
    """Matroska has milliseconds: at 30 frames a second the third is shown at 0.067 s, and not at 2/30 s."""
    path = tmp_path / "rounded.mkv"
    written(path, [(round(1000 * i / 30), 100) for i in range(30)], Fraction(1, 1000), rate=30)
    assert [frame.index for frame in Video(path).frames(30)] == list(range(30))


def test_a_film_that_begins_late_begins_at_zero(tmp_path):
    path = tmp_path / "late.ts"
    written(path, [(100 + i, 50 * i) for i in range(1, 5)], Fraction(1, 1), "mpegts")
    assert [(frame.time, frame.index) for frame in Video(path).frames(1)] == [(float(i), i) for i in range(4)]


@pytest.mark.parametrize(("matrix", "transpose"), MATRICES.values(), ids=MATRICES)
def test_a_turned_film_comes_upright(tmp_path, corner, matrix, transpose):
    path = tmp_path / "phone.mp4"
    still(path, corner)
    turned(path, matrix)
    frame = next(Video(path).frames())
    expected = corner.transpose(transpose)
    assert frame.picture.size == expected.size
    assert np.abs(np.asarray(frame.picture, float) - np.asarray(expected, float)).mean() < 5


def test_the_matrices_are_what_ffmpeg_calls_turned(tmp_path, corner):
    path = tmp_path / "phone.mp4"
    still(path, corner)
    turned(path, MATRICES["three quarters"][0])
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
    if not hasattr(frame, "rotation"):
        pytest.skip("this PyAV does not say how a frame is turned")
    assert frame.rotation == 90, "to the left"


@pytest.mark.parametrize(("aspect", "size"), [(Fraction(4, 3), (85, 48)), (Fraction(1, 2), (64, 96))])
def test_pixels_that_are_not_square_become_so(tmp_path, aspect, size):
    path = tmp_path / "anamorphic.mkv"
    written(path, [(0, 100), (1, 100)], Fraction(1, 1), sample_aspect_ratio=aspect)
    assert next(Video(path).frames()).picture.size == size


def test_colours_are_those_of_the_file(tmp_path):
    """What is written is BT.709 and says so; taken for BT.601 the green would be 28 off."""
    path = tmp_path / "green.mp4"
    still(path, Image.new("RGB", (64, 48), (20, 200, 60)))
    assert np.abs(np.asarray(next(Video(path).frames()).picture, int) - (20, 200, 60)).max() <= 4


def test_no_more_is_decoded_than_asked_for(film, monkeypatch):
    taken = []

    class Counting:
        def __init__(self, container):
            self.stream = original(container)

        def __iter__(self):
            for each in self.stream:
                taken.append(each[1])
                yield each

        def __getattr__(self, name):
            return getattr(self.stream, name)

    original = reading._Decoding
    monkeypatch.setattr(reading, "_Decoding", Counting)
    frames = Video(film).frames(1)
    assert taken == []
    next(frames)
    assert taken == [0, 1], "the next one says how long the first is shown"
    next(frames)
    assert taken == list(range(7))


@pytest.mark.parametrize("fps", [0, -1, float("nan"), float("inf"), "2", True, None])
def test_a_rate_that_is_none_is_refused(film, fps):
    with pytest.raises(SettingError, match="expected how many frames a second"):
        Video(film).frames(fps)


def test_what_is_no_video_is_said(tmp_path):
    with pytest.raises(PictureNotFoundError, match="no such video"):
        Video(tmp_path / "none.mp4")
    with pytest.raises(FileFormatError, match="is a folder"):
        Video(tmp_path)
    (tmp_path / "notes.mp4").write_text("not a video")
    with pytest.raises(FileFormatError, match=r"notes.mp4 cannot be read as a video \(Invalid data"):
        Video(tmp_path / "notes.mp4")
    (tmp_path / "empty.mp4").write_bytes(b"")
    with pytest.raises(FileFormatError, match="cannot be read as a video"):
        Video(tmp_path / "empty.mp4")


def test_a_file_with_sound_alone_is_said(tmp_path):
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.rate = 44100
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    with pytest.raises(FileFormatError, match=r"no video stream \(its streams: audio\)"):
        Video(path)


def film_of(path, times, size=(64, 48)):
    """Frames at times in milliseconds."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=4, options={"bf": "0"})
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for number, time in enumerate(times):
            frame = av.VideoFrame.from_image(Image.new("RGB", size, (20 * number,) * 3))
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))


def test_a_gap_that_nobody_filmed_ends_the_film(tmp_path):
    film_of(tmp_path / "a.mkv", [0, 250, 500, 1_000_000_000])
    said = []
    frames = list(Video(tmp_path / "a.mkv").frames(1, said.append))
    assert len(frames) == 1 and "3,600 s is the longest that one may be shown" in said[0]
    film_of(tmp_path / "slow.mkv", [0, 3_500_000, 7_000_000])  # a picture an hour
    frames = list(Video(tmp_path / "slow.mkv").frames(0.001, said.append))
    assert sorted({frame.index for frame in frames}) == [0, 1, 2] and len(said) == 1


def test_no_more_frames_come_than_anybody_looks_at(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "MOST_FRAMES", 20)
    film_of(tmp_path / "a.mkv", [0, 2000, 4000, 6000])
    said = []
    assert len(list(Video(tmp_path / "a.mkv").frames(10, said.append))) == 20
    assert "more than 20 frames; give a lower fps" in said[0]
    assert len(list(Video(tmp_path / "a.mkv").frames(1, said.append))) < 9 and len(said) == 1


def test_frames_have_no_more_pixels_than_pictures(tmp_path, monkeypatch):
    film_of(tmp_path / "a.mkv", [0, 250])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 48 - 1)
    with pytest.raises(FileFormatError, match="64 x 48, 3,072 pixels; the limit is 3,071"):
        Video(tmp_path / "a.mkv")


def test_a_playlist_without_an_end_is_refused(tmp_path):
    path = tmp_path / "live.m3u8"
    path.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\na.ts\n")
    with pytest.raises(FileFormatError, match="a playlist without an end"):
        Video(path)


def test_a_playlist_leads_to_no_server(tmp_path):
    path = tmp_path / "list.m3u8"
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}/a.ts"
        path.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{address}\n#EXT-X-ENDLIST\n")
        server.settimeout(0.2)
        asked = []

        def answer():
            with contextlib.suppress(TimeoutError):
                visitor, _ = server.accept()
                asked.append(visitor.recv(1000))
                visitor.close()

        waiting = threading.Thread(target=answer)
        waiting.start()
        with pytest.raises(FileFormatError):
            list(Video(path).frames())
        waiting.join()
    assert asked == []


def test_a_name_is_not_a_protocol(tmp_path, monkeypatch, film):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "concat:a.mp4").write_bytes(film.read_bytes())
    assert Video("concat:a.mp4").duration == pytest.approx(8.0)


@pytest.fixture
def web(tmp_path, scenes):
    """The film with its table of contents in front, as it is for the web."""
    path = tmp_path / "web.mp4"
    encoded(path, [scene.picture for scene in scenes for _ in range(10)], 5, movflags="faststart")
    return path


def test_of_a_film_that_is_cut_short_what_is_there_comes(web):
    data = web.read_bytes()
    web.write_bytes(data[: len(data) * 6 // 10])
    said = []
    frames = list(Video(web).frames(1, said.append))
    assert 2 <= len(frames) < 8 and len(said) == 1
    assert "it ends at" in said[0] and "should at 8.00 s" in said[0] and "were kept" in said[0]
    with pytest.warns(UserWarning, match="it ends at"):
        assert len(list(Video(web).frames(1))) == len(frames)


@pytest.mark.parametrize(("end", "short"), [(94, True), (96, False)])
def test_a_film_may_end_a_twentieth_before_the_time_that_it_says(end, short):
    decoding = reading._Decoding(None)
    decoding.end = Fraction(end)
    assert bool(decoding.broken(100.0)) == short


def test_of_a_film_that_is_broken_in_the_middle_the_rest_comes(web):
    data = bytearray(web.read_bytes())
    begin = data.index(b"mdat") + 4
    middle = begin + (len(data) - begin) // 2
    data[middle : middle + 800] = bytes(800)
    web.write_bytes(data)
    said = []
    frames = list(Video(web).frames(1, said.append))
    assert len(frames) == 8 and [frame.time for frame in frames] == list(range(8))
    assert len(said) == 1 and "broken" in said[0]


def test_a_film_without_one_whole_frame_is_said(web):
    data = bytearray(web.read_bytes())
    begin = data.index(b"mdat") + 4
    data[begin:] = bytes(len(data) - begin)
    web.write_bytes(data)
    with pytest.raises(FileFormatError, match="holds no frame that can be decoded"):
        list(Video(web).frames(1, lambda said: None))


def test_a_sample_is_spread_over_the_whole():
    assert spread(range(5), 8) == [0, 1, 2, 3, 4]
    assert spread(range(9), 8) == [0, 2, 4, 6, 8]
    for count in (50, 64, 65):
        kept = spread(range(count), 8)
        assert len({b - a for a, b in zip(kept, kept[1:], strict=False)}) == 1 and 4 < len(kept) <= 8
        assert count - kept[-1] <= kept[1], "up to the end"

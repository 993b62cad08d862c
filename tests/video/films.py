"""Videos as other programs write them, and as this one does."""

import av

from sclip_plugin.video.writing import write_video


def encoded(path, pictures, fps, **options):
    """In the form that the name says, in H.264."""
    with av.open(str(path), "w", options=options) as out:
        stream = out.add_stream("libx264", rate=fps)
        stream.width, stream.height, stream.pix_fmt = *pictures[0].size, "yuv420p"
        for picture in pictures:
            out.mux(stream.encode(av.VideoFrame.from_image(picture)))
        out.mux(stream.encode(None))


def still(path, picture, count=3, fps=1):
    with write_video(path, fps) as out:
        for _ in range(count):
            out.add(picture)

"""Make the derived test videos from the real ones: `python -m tests.make_assets`.

The encoders' output depends on their versions, so the files are checked in; this is how they came
about, and the place to add another.
"""

from fractions import Fraction
from pathlib import Path

import av

VIDEOS = Path(__file__).parent / "data" / "videos"
SOURCE = VIDEOS / "hiker_tiny.mp4"


def transcode(target: Path, codec: str, frames: int, rate: int, **options: str) -> None:
    """Encode the source's first frames."""
    with av.open(str(SOURCE)) as source, av.open(str(target), "w") as out:
        stream = out.add_stream(codec, rate=rate, options=options)
        stream.width, stream.height = 368, 240
        stream.pix_fmt = "yuv420p"
        for index, frame in zip(range(frames), source.decode(video=0), strict=False):
            frame.pts, frame.time_base = index, Fraction(1, rate)
            frame.pict_type = 0
            out.mux(stream.encode(frame))
        out.mux(stream.encode())


def main() -> None:
    transcode(VIDEOS / "odd" / "one_frame.mp4", "libx264", 1, 24, crf="30")
    # AVI stores no presentation times; with B-frames nothing in it says when a frame is shown.
    transcode(VIDEOS / "odd" / "b_frames_without_pts.avi", "mpeg4", 40, 25, bf="2", qscale="8")

    whole = SOURCE.read_bytes()
    (VIDEOS / "broken" / "truncated_half.mp4").write_bytes(index_first()[: len(whole) // 2])
    middle = len(whole) // 2
    (VIDEOS / "broken" / "zeroed_middle.mp4").write_bytes(
        whole[:middle] + bytes(4000) + whole[middle + 4000 :]
    )

    hevc = VIDEOS / "broken" / "bitflips_hevc.mp4"
    transcode(hevc, "libx265", 32, 8, crf="32", **{"x265-params": "log-level=none"})
    data = bytearray(hevc.read_bytes())
    for position in range(len(data) // 3, 2 * len(data) // 3, 97):
        data[position] ^= 0x10
    hevc.write_bytes(data)


def index_first() -> bytes:
    """Remux with the index in front: only such a file can be cut and still be opened."""
    out = VIDEOS / "faststart.mp4"
    try:
        with (
            av.open(str(SOURCE)) as source,
            av.open(str(out), "w", options={"movflags": "faststart"}) as target,
        ):
            stream = target.add_stream_from_template(source.streams.video[0])
            for packet in source.demux(video=0):
                if packet.dts is not None:
                    packet.stream = stream
                    target.mux(packet)
        return out.read_bytes()
    finally:
        out.unlink(missing_ok=True)


if __name__ == "__main__":
    main()

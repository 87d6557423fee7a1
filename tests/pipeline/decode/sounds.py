"""Videos with a white flash and a click at known times, in many containers and codecs."""

import io
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

FPS = 25
RATE = 48_000


@dataclass(frozen=True, slots=True)
class Form:
    """A container with its codecs."""

    container: str
    video: str
    audio: str
    rate: int = RATE
    b_frames: int = 0

    def __str__(self) -> str:
        return f"{self.container}-{self.audio}-{self.b_frames}"


def clicks(seconds: float, at: list[float], rate: int = RATE) -> NDArray[np.int16]:
    """Return samples `[n, 2]` with a click of 1 ms at each time, over a soft hum."""
    count = round(seconds * rate)
    time = np.arange(count) / rate
    sound = 300 * np.sin(2 * np.pi * 220 * time)
    for moment in at:
        begin = round(moment * rate)
        sound[begin : begin + rate // 1000] = 24_000
    return np.repeat(sound.astype(np.int16)[:, None], 2, 1)


def flashing(
    form: Form, seconds: float, at: list[float], samples: NDArray[np.int16], delay_s: float = 0.0
) -> bytes:
    """Return a video of 64×64 pixels whose frames at the times `at` are white.

    Args:
        form: container and codecs.
        seconds: length of the pictures.
        at: multiples of 1 / FPS.
        samples: sound `[n, 2]` at `form.rate`.
        delay_s: presentation time of the first sample.
    """
    out = io.BytesIO()
    flashes = {round(moment * FPS) for moment in at}
    with av.open(out, "w", format=form.container) as file:
        video: Any = file.add_stream(form.video, rate=FPS)
        video.width = video.height = 64
        video.pix_fmt = "yuv420p"
        if form.video == "libx264":
            video.options = {"bf": str(form.b_frames), "preset": "ultrafast", "qp": "10"}
            if form.b_frames:
                video.options |= {"preset": "medium", "b-adapt": "0"}
        sound: Any = file.add_stream(form.audio, rate=form.rate)
        sound.layout = "stereo"
        for n in range(round(seconds * FPS)):
            level = 255 if n in flashes else 20
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), level, np.uint8), "rgb24")
            frame.pts = n
            frame.time_base = Fraction(1, FPS)
            file.mux(video.encode(frame))
        file.mux(video.encode(None))
        fifo = av.AudioFifo()
        whole = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(samples).reshape(1, -1), "s16", "stereo"
        )
        whole.sample_rate = form.rate
        resampler = av.AudioResampler(sound.format.name, "stereo", form.rate)
        for frame in resampler.resample(whole):
            frame.pts = None
            fifo.write(frame)
        size = sound.codec_context.frame_size or 1024
        place = round(delay_s * form.rate)
        while (frame := fifo.read(size) or fifo.read(size, partial=True)) is not None:
            frame.pts, frame.time_base = place, Fraction(1, form.rate)
            place += frame.samples
            file.mux(sound.encode(frame))
        file.mux(sound.encode(None))
    return out.getvalue()

"""The child process: takes one file at a time, sends clips, and dies without regret.

Started by `child_process.Child` as `python -P -m pipeline.decode.child_main FD`. It says `ready`,
then for each job any number of `alive` and `clip`, and one `end` or `fail`. It exits when
the socket closes.
"""

import gc
import os
import signal
import socket
import sys
from typing import Any

import numpy as np
import torch

from pipeline.decode.clip_assembly import Cut
from pipeline.decode.clip_rule import ClipRule, DecodeLimits
from pipeline.decode.clips import clips
from pipeline.decode.damage import one_line
from pipeline.decode.geometry import Orientation, fit_frame
from pipeline.decode.image import image_clip
from pipeline.decode.protocol import receive_with_file, send
from pipeline.decode.resize import resize
from pipeline.decode.watchdog import Watchdog, limit_memory, private_bytes
from pipeline.quarantine import QuarantineError
from pipeline.records import Span

NO_MEMORY = ("allocate memory", "bad allocation", "std::bad_alloc")
"""How C++ says it in a plain RuntimeError."""


def main(fd: int) -> None:
    """Serve jobs until the parent closes the socket."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then ends us
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])
    torch.set_num_threads(1)
    _warm_up()
    base = private_bytes() if sys.platform == "linux" else 0
    with socket.socket(fileno=fd) as sock:
        send(sock, {"kind": "ready"})
        while True:
            try:
                job, file = receive_with_file(sock)
            except (EOFError, ConnectionError):
                return
            _serve(sock, job, file, base)


def _serve(sock: socket.socket, job: dict[str, Any], file: int, base: int) -> None:
    rules = [ClipRule(**rule) for rule in job["rules"]]
    limits = DecodeLimits(**job["limits"])
    dog = Watchdog(limits.timeout_s, lambda: send(sock, {"kind": "alive"}))

    def emit(header: dict[str, Any], payload: memoryview | None) -> None:
        dog.rest()
        send(sock, header, payload)
        dog.watch()

    dog.watch()
    outcome: dict[str, Any]
    try:
        limit_memory(base, limits.memory_mb << 20)
        span = None if job["span"] is None else Span(**job["span"])
        with os.fdopen(file, "rb", buffering=0) as video:
            found = (
                [(image_clip(video, rules, limits), 0.0)]
                if job["is_image"]
                else clips(video, rules, limits, dog.progress, span)
            )
            for clip, source_fps in found:
                frames = clip.frames
                emit(_header(clip, source_fps), None if frames is None else frames.data.cast("B"))
        outcome = {"kind": "end"}
    except QuarantineError as error:
        detail = error.detail
        if error.reason == "decode_memory":
            detail = _short_of_memory(detail, limits)
        outcome = {"kind": "fail", "reason": error.reason, "detail": detail}
    except ConnectionError:
        os._exit(1)
    except Exception as error:  # whatever a file provokes is that file's quarantine
        outcome = {"kind": "fail", **_unforeseen(error, limits)}
    limit_memory(base, None)
    dog.rest()
    gc.collect()
    grown = private_bytes() - base if sys.platform == "linux" else 0
    send(sock, {**outcome, "grown_mb": grown >> 20})


def _header(clip: Cut, source_fps: float) -> dict[str, Any]:
    return {
        "kind": "clip",
        "index": clip.index,
        "start_s": float(clip.start_s),
        "end_s": float(clip.end_s),
        "source_fps": source_fps,
        "source_height": clip.fit.display_height,
        "source_width": clip.fit.display_width,
        "crop": clip.fit.crop,
        "num_frames": clip.own_frames + clip.padded_frames,
        "size": (clip.fit.height, clip.fit.width),
        "padded_frames": clip.padded_frames,
        "dropped": clip.frames is None,
    }


def _unforeseen(error: Exception, limits: DecodeLimits) -> dict[str, str]:
    text = one_line(f"{type(error).__name__}: {error}")
    if isinstance(error, MemoryError) or any(words in text for words in NO_MEMORY):
        return {"reason": "decode_memory", "detail": _short_of_memory(text, limits)}
    return {"reason": "decode_error", "detail": text}


def _short_of_memory(said: str, limits: DecodeLimits) -> str:
    return f"decoding needs more than decode.memory_mb = {limits.memory_mb} ({said})"


def _warm_up() -> None:
    """Load what is loaded on first use, so that it does not count as a video's memory."""
    place = fit_frame((64, 96), (32, 32))
    for dtype in (np.uint8, np.float32):
        resize(np.zeros((64, 96, 3), dtype), place, Orientation())
    gc.collect()
    gc.freeze()  # else each sample's collection would walk all of torch, for 50 ms


if __name__ == "__main__":
    main(int(sys.argv[1]))

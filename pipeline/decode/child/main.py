"""The fork server and the decoder processes that it forks.

`fork_server.ForkServer` starts it. The server imports everything, says `ready`, and forks one
process per request. A decoder process takes one file at a time: for each job it sends any number of
`alive` and `clip`, or `facts`, and one `end`, `fail` or `unread`. It exits when its socket closes.
"""

import gc
import os
import signal
import socket
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict
from io import FileIO
from typing import Any, BinaryIO, cast

import numpy as np
import torch

from pipeline.decode.child.protocol import receive_with_files, send
from pipeline.decode.child.watchdog import Watchdog, limit_memory, private_bytes
from pipeline.decode.clip_assembly import AssembledClip
from pipeline.decode.clip_rule import ClipRule, DecodeLimits, SoundRule
from pipeline.decode.clips import clips
from pipeline.decode.container.video import container_options
from pipeline.decode.image import image_clips
from pipeline.decode.measures.measures import measure
from pipeline.decode.measures.text import text_area
from pipeline.decode.pixels.geometry import Orientation, fit_frame
from pipeline.decode.pixels.resize import resize
from pipeline.decode.sound_stream import encode_sound
from pipeline.decode.sound_track import ClipSound, SoundTrack
from pipeline.decode.video_facts import video_facts
from pipeline.errors import one_line
from pipeline.quarantine import QuarantineError
from pipeline.records import Span

NO_MEMORY = ("allocate memory", "bad allocation", "std::bad_alloc")
"""Texts of a plain RuntimeError by which C++ code reports lack of memory."""


def main(fd: int) -> None:
    """Fork decoder processes until the caller closes the socket; in each of them, serve jobs."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the caller, which then ends us
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])
    torch.set_num_threads(1)
    _warm_up()
    with socket.socket(fileno=fd) as sock:
        jobs = _fork_on_request(sock)
    if jobs is not None:
        with jobs:
            _serve(jobs)


def _fork_on_request(sock: socket.socket) -> socket.socket | None:
    """Return the socket of its jobs in each forked process; None in the server, at its end.

    The server frees no process id before the caller asks for it, so no other process has it.
    """
    children: set[int] = set()
    send(sock, {"kind": "ready"})
    while True:
        try:
            request, fds = receive_with_files(sock)
        except (EOFError, ConnectionError):
            for pid in children:
                os.kill(pid, signal.SIGKILL)
            return None
        if request["kind"] == "fork":
            jobs, stderr = fds
            if not (pid := os.fork()):
                os.dup2(stderr, sys.stderr.fileno())
                os.close(stderr)
                return socket.socket(fileno=jobs)
            os.close(jobs)
            os.close(stderr)
            children.add(pid)
            send(sock, {"pid": pid})
        else:
            pid = request["pid"]
            code = _end(pid, request["grace_s"]) if pid in children else None
            children.discard(pid)
            send(sock, {"code": code})


def _end(pid: int, grace_s: float) -> int | None:
    """Return the exit code of a child that ends within `grace_s`; kill any other."""
    deadline = time.monotonic() + grace_s
    while not (ended := os.waitpid(pid, os.WNOHANG))[0] and time.monotonic() < deadline:
        time.sleep(0.002)
    if ended[0]:
        return os.waitstatus_to_exitcode(ended[1])
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def _serve(sock: socket.socket) -> None:
    """Serve jobs until the caller closes the socket."""
    base = private_bytes() if sys.platform == "linux" else 0
    reads_text = False
    while True:
        try:
            job, [file] = receive_with_files(sock)
        except (EOFError, ConnectionError):
            return
        if "text_area" in job["rules"][0]["measure"] and not reads_text:
            # The detector's memory is not the video's.
            text_area(np.zeros((64, 64, 3), np.uint8))
            base, reads_text = private_bytes() if sys.platform == "linux" else 0, True
        _decode(sock, job, file, base)


class VideoFile(FileIO):
    """The video's file; it remembers that the disk failed, which is not a fault of the video."""

    failed: OSError | None = None

    def read(self, size: int | None = -1, /) -> bytes:
        """Return up to `size` bytes, b"" at the end."""
        try:
            return super().read(-1 if size is None else size) or b""
        except OSError as error:
            self.failed = error
            raise


def _decode(sock: socket.socket, job: dict[str, Any], file: int, base: int) -> None:
    rules = [ClipRule(**rule) for rule in job["rules"]]
    limits = DecodeLimits(**job["limits"])
    rule = None if job["sound"] is None else SoundRule(**job["sound"])
    dog = Watchdog(limits.timeout_s, lambda: send(sock, {"kind": "alive"}))

    def emit(header: dict[str, Any], payload: memoryview | None) -> None:
        dog.stop_alarm()
        send(sock, header, payload)
        dog.start_alarm()

    dog.start_alarm()
    outcome: dict[str, Any]
    video = VideoFile(file)
    track = None
    if rule is not None and not job["is_image"]:
        track = SoundTrack(file, rule, container_options(limits), dog.progress)
    try:
        limit_memory(base, limits.memory_mb << 20)
        span = None if job["span"] is None else Span(**job["span"])
        with video:
            source = cast("BinaryIO", video)
            found: Iterable[tuple[AssembledClip, float]] = ()
            if job["facts_only"]:
                facts = video_facts(source, limits, dog.progress, is_image=job["is_image"])
                emit({"kind": "facts", **asdict(facts)}, None)
            elif job["is_image"]:
                found = ((clip, 0.0) for clip in image_clips(source, rules, limits))
            else:
                found = clips(
                    source,
                    rules,
                    limits,
                    dog.progress,
                    span,
                    job["key"],
                    lambda end_s: emit({"kind": "shot", "end_s": float(end_s)}, None),
                )
            for clip, source_fps in found:
                frames = clip.frames
                numbers = dict(clip.numbers)
                if frames is not None:
                    numbers.update(measure(frames, rules[0].measure, clip.own_frames))
                pixels = None if frames is None else frames.data.cast("B")
                emit(_header(clip, source_fps, numbers), pixels)
                if rule is not None and frames is not None:
                    sound = None if track is None else track.between(clip.start_s, clip.end_s)
                    why = "an image" if track is None else track.failed
                    emit(*_sound_message(sound, rule, why or ""))
        outcome = {"kind": "end"}
    except QuarantineError as error:
        detail = error.detail
        if error.reason == "decode_memory":
            detail = _memory_detail(detail, limits)
        outcome = {"kind": "fail", "reason": error.reason, "detail": detail}
    except ConnectionError:
        os._exit(1)
    except Exception as error:  # any error that a file causes quarantines that file
        outcome = {"kind": "fail", **_unexpected(error, limits)}
    if video.failed is not None:
        outcome = {"kind": "unread", "detail": one_line(video.failed)}
    limit_memory(base, None)
    dog.stop_alarm()
    gc.collect()
    grown = private_bytes() - base if sys.platform == "linux" else 0
    send(sock, {**outcome, "grown_mb": grown >> 20})


def _sound_message(
    sound: ClipSound | None, rule: SoundRule, why: str
) -> tuple[dict[str, Any], memoryview | None]:
    if sound is None:
        return {"kind": "sound", "bytes": None, "detail": why}, None
    data = encode_sound(sound.samples, rule)
    header = {
        "kind": "sound",
        "bytes": len(data),
        "audio_source_rate": sound.source_rate,
        "audio_source_channels": sound.source_channels,
        "audio_silence": sound.silence,
    }
    return header, memoryview(data)


def _header(
    clip: AssembledClip, source_fps: float, numbers: dict[str, float | None]
) -> dict[str, Any]:
    return {
        "kind": "clip",
        "clip_index": clip.index,
        "start_s": float(clip.start_s),
        "end_s": float(clip.end_s),
        "source_fps": source_fps,
        "source_height": clip.fit.display_height,
        "source_width": clip.fit.display_width,
        "crop": clip.fit.crop,
        "num_frames": clip.own_frames + clip.padded_frames,
        "size": (clip.fit.height, clip.fit.width),
        "padded_frames": clip.padded_frames,
        "frame_times": [*map(float, clip.times_s), *[float(clip.times_s[-1])] * clip.padded_frames],
        "dropped": clip.dropped,
        "numbers": numbers,
    }


def _unexpected(error: Exception, limits: DecodeLimits) -> dict[str, str]:
    text = one_line(error)
    if isinstance(error, MemoryError) or any(words in text for words in NO_MEMORY):
        return {"reason": "decode_memory", "detail": _memory_detail(text, limits)}
    return {"reason": "decode_error", "detail": text}


def _memory_detail(said: str, limits: DecodeLimits) -> str:
    return f"decoding needs more than decode.memory_mb = {limits.memory_mb} ({said})"


def _warm_up() -> None:
    """Load what is loaded on first use, so it does not count as a video's memory."""
    fit = fit_frame((64, 96), (32, 32))
    for dtype in (np.uint8, np.float32):
        resize(np.zeros((64, 96, 3), dtype), fit, Orientation())
    gc.collect()
    gc.freeze()  # otherwise each collection walks all of torch, for 50 ms, and unshares its pages
    gc.enable()

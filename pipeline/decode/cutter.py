"""Cuts the displayed frames of one video into clips of all rates and buckets, in one pass.

    DisplayedFrame ─┬► Sampler of a rate ─┬► Assembler of a bucket ─► AssembledClip
                    └► …                  └► …

Every displayed frame is pushed through all rates before the next one is read. So a frame is decoded
once, its colours are converted once, and it is resized once for each size that needs it.

A video is one stretch, or several that are cut one after another. No clip crosses the end of a
stretch. Each stretch gets the longest bucket that it fills. Until it has filled the longest one of
all, its pixels are held in the sizes of all lengths. These are fewer frames than the longest has.
"""

from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from pipeline.decode.buckets import for_picture
from pipeline.decode.clip_assembly import AssembledClip, Assembler
from pipeline.decode.clip_choice import Choice
from pipeline.decode.clip_rule import ClipRule
from pipeline.decode.pixels.frame_converter import FrameConverter
from pipeline.decode.pixels.geometry import Fit
from pipeline.decode.sampling import DisplayedFrame, SampledFrame, Sampler
from pipeline.decode.shots import HeldBack, Shot
from pipeline.quarantine import SHOT_SHORT, QuarantineError

Size = tuple[int, int]

Held = dict[Size, tuple[NDArray[Any], Fit]]
"""Pixels of a frame in several sizes, which are held in its place."""

Frame = VideoFrame | Held


class Cutter:
    """Cuts the stretches of one video.

    Args:
        rules: of one rate and bucket each; they differ in nothing else.
        converter: makes the pixels of the video's frames.
        nominal_s: usual duration of a frame of the source.
        origin_s: time from which the times of frames count.
        key: key of the sample, by which clips are chosen.
    """

    def __init__(
        self,
        rules: Sequence[ClipRule],
        converter: FrameConverter,
        *,
        nominal_s: Fraction,
        origin_s: Fraction = Fraction(0),
        key: str = "",
    ) -> None:
        self._converter = converter
        self._nominal_s = nominal_s
        self._origin_s = origin_s
        self._key = key
        rates = dict.fromkeys(rule.fps for rule in rules)
        self._rates = [tuple(rule for rule in rules if rule.fps == fps) for fps in rates]
        self._fitting: list[tuple[ClipRule, ...]] = []
        """Rules of each rate for the picture of the first frame."""
        self._numbers: dict[str, float | None] = {}
        """Values of columns of all clips of the stretch."""
        self._choices: dict[ClipRule | float | None, Choice[AssembledClip]] = {}
        self.clips = 0
        """Number of clips so far, with those that are dropped."""

    def cut(
        self,
        frames: Iterable[DisplayedFrame[VideoFrame]],
        start_s: Fraction | None = None,
        end_s: Fraction | None = None,
        shot: Shot[VideoFrame] | None = None,
    ) -> Iterator[AssembledClip]:
        """Yield the clips of one stretch, except those that `chosen` gives.

        Args:
            frames: its frames, from the one that is shown as it begins. No frame is read after the
                first one beyond `end_s`.
            start_s: beginning of the stretch; None: with its first frame.
            end_s: end of the stretch; None: with its last frame.
            shot: shot from which the frames are; None: the video is not split into shots.
        """
        before = self.clips
        self._numbers = {} if shot is None else shot.numbers
        lanes = [
            (
                Sampler[VideoFrame](rules[0].interval_s, self._nominal_s, start_s, end_s),
                _Lane(self, rate),
            )
            for rate, rules in enumerate(self._rates)
        ]
        held = [self._held_back(rate, shot) for rate, _ in enumerate(lanes)]
        try:
            for shown in frames:
                for (sampler, lane), gate in zip(lanes, held, strict=True):
                    for frame in gate.push(sampler.push(shown)):
                        yield from lane.push(frame)
                self._converter.release()
                if all(sampler.ended for sampler, _ in lanes):
                    break
        except QuarantineError:
            for (_, lane), gate in zip(lanes, held, strict=True):
                for frame in gate.rest():  # no cut can take these away any more
                    yield from lane.push(frame)
            raise
        for (sampler, lane), gate in zip(lanes, held, strict=True):
            for frame in chain(gate.push(sampler.rest()), gate.rest()):
                yield from lane.push(frame)
            yield from lane.rest()
        if shot is not None and self.clips == before:
            yield self._lost(shot)
        self._converter.release()

    def _held_back(self, rate: int, shot: Shot[VideoFrame] | None) -> HeldBack:
        rule = self._rates[rate][0]
        slack_s = min(self._nominal_s, rule.interval_s or self._nominal_s) / 2
        return HeldBack(shot, rule.shots, slack_s, partial(self.without_source, rate))

    def _lost(self, shot: Shot[VideoFrame]) -> AssembledClip:
        """Return the dropped clip that counts for a shot without clips."""
        assert shot.end_s is not None
        rule = self.rules_of(0, shot.first.frame)[0]
        return AssembledClip(
            index=self._number(),
            start_s=shot.start_s,
            end_s=shot.end_s,
            own_frames=shot.count,
            padded_frames=0,
            fit=self.fit(shot.first.frame, (rule.height, rule.width)),
            times_s=(shot.start_s - self._origin_s,),
            frames=None,
            dropped=SHOT_SHORT,
        )

    def chosen(self) -> Iterator[AssembledClip]:
        """Yield the chosen clips of all stretches, if the rules limit their number."""
        clips = [clip for choice in self._choices.values() for clip in choice.rest()]
        yield from sorted(clips, key=lambda clip: clip.index)

    def rules_of(self, rate: int, frame: Frame) -> tuple[ClipRule, ...]:
        """Return the rules of a rate that the video can get, the longest first."""
        if not self._fitting:
            assert not isinstance(frame, dict)  # pixels have the sizes of these rules
            display = self._converter.display(frame)
            self._fitting = [for_picture(rules, display) for rules in self._rates]
        return self._fitting[rate]

    def assembler(self, rule: ClipRule) -> Assembler[Frame]:
        """Return an assembler for one stretch."""
        choice = None
        if rule.max_per_sample is not None:
            # The lengths of one rate count together, because each stretch gets one of them.
            of = rule if rule.every_bucket else rule.fps
            choice = self._choices.setdefault(
                of, Choice(rule.max_per_sample, rule.choose, self._key)
            )
        return Assembler(
            rule,
            self,
            nominal_s=self._nominal_s,
            origin_s=self._origin_s,
            number=self._number,
            choice=choice,
            numbers=self._numbers,
        )

    def without_source(
        self, rate: int, frame: SampledFrame[Frame], last: SampledFrame[Frame] | None
    ) -> SampledFrame[Frame]:
        """Return a frame that holds its pixels in all sizes of its rate, not the decoded picture.

        Args:
            rate: number of the rate.
            frame: the frame.
            last: the frame before it, which can show the same picture.
        """
        shown = frame.shown
        if last is not None and last.shown.start_s == shown.start_s:
            return SampledFrame(last.shown, frame.start_s, frame.end_s)
        if isinstance(shown.frame, dict):
            return frame
        sizes = dict.fromkeys((r.height, r.width) for r in self.rules_of(rate, shown.frame))
        pixels: Frame = {
            size: (
                np.ascontiguousarray(self.convert(shown.frame, size)),
                self.fit(shown.frame, size),
            )
            for size in sizes
        }
        held = DisplayedFrame(pixels, shown.start_s, shown.duration_s)
        return SampledFrame(held, frame.start_s, frame.end_s)

    def fit(self, frame: Frame, size: Size) -> Fit:
        """Return where a frame's pixels go."""
        return frame[size][1] if isinstance(frame, dict) else self._converter.fit(frame, size)

    def convert(self, frame: Frame, size: Size) -> NDArray[Any]:
        """Return a frame's pixels `[H, W, 3]`."""
        return frame[size][0] if isinstance(frame, dict) else self._converter.convert(frame, size)

    def _number(self) -> int:
        self.clips += 1
        return self.clips - 1


class _Lane:
    """Cuts the sampled frames of one rate in one stretch, in the buckets that it fills."""

    def __init__(self, cutter: Cutter, rate: int) -> None:
        self._cutter = cutter
        self._rate = rate
        self._rules: tuple[ClipRule, ...] = ()
        self._assemblers: list[Assembler[Frame]] = []
        self._held: list[SampledFrame[Frame]] = []
        """Frames of a stretch that has not filled the longest bucket yet, if there are several."""

    def push(self, frame: SampledFrame[Frame]) -> Iterator[AssembledClip]:
        """Take the next frame; yield the clips that it completes."""
        if not self._rules:
            self._rules = self._cutter.rules_of(self._rate, frame.shown.frame)
            if len(self._rules) == 1 or self._rules[0].every_bucket:
                self._assemblers = [self._cutter.assembler(rule) for rule in self._rules]
        if self._assemblers:
            for assembler in self._assemblers:
                yield from assembler.push(frame)
            return
        last = self._held[-1] if self._held else None
        self._held.append(self._cutter.without_source(self._rate, frame, last))
        if len(self._held) == self._rules[0].frames:
            yield from self._settle(self._rules[0])

    def rest(self) -> Iterator[AssembledClip]:
        """Yield the remainder of each bucket; without a full clip, of the shortest ones."""
        if self._held:
            filled = [rule for rule in self._rules if rule.frames <= len(self._held)]
            yield from self._settle(filled[0] if filled else self._rules[-1])
        ended = [assembler for assembler in self._assemblers if assembler.filled]
        if not ended:
            least = min((rule.frames for rule in self._rules), default=0)
            ended = [one for one in self._assemblers if one.rule.frames == least]
        for assembler in ended:
            yield from assembler.rest()

    def _settle(self, rule: ClipRule) -> Iterator[AssembledClip]:
        """Cut the frames that were held, and those that follow, by a rule."""
        assembler = self._cutter.assembler(rule)
        held, self._held = self._held, []
        self._assemblers = [assembler]
        for frame in held:
            yield from assembler.push(frame)

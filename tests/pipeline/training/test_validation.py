import pytest
import torch

from pipeline.decode import ClipRule, Decoder
from pipeline.errors import ConfigError
from pipeline.records import Sample
from pipeline.training.validation import held_out_clips
from tests.assets import BIKES, ONE_FRAME, VIDEOS
from tests.pipeline.training.sources import source


def test_held_out_clips_are_those_of_the_corpus_job():
    config = source(uri=[str(BIKES.path), str(ONE_FRAME.path)], short_side=48, min_scale=0.5)
    (name, clip), (still_name, still) = held_out_clips(config, fps=8)
    assert name.endswith("/bikes.mp4")
    assert still_name.endswith("/one_frame.mp4")
    assert (still == still[0]).all()
    assert still.shape == (5, 24, 24, 3)
    with Decoder(ClipRule(frames=5, height=24, width=24, fps=8, short="drop")) as decoder:
        video = Sample(key="bikes", video=str(BIKES.path), video_name="bikes.mp4")
        _, frames = next(decoder.decode(video, "u"))
    assert torch.equal(clip, torch.from_numpy(frames))


def test_a_broken_held_out_video_is_named():
    broken = [str(VIDEOS / "broken" / name) for name in ("text.mp4", "corrupted.mp4")]
    with pytest.raises(ConfigError, match=r"held-out video text.mp4: not_a_video: .* to exclude"):
        held_out_clips(source(uri=broken), fps=None)
    # Its first clip ends before the damage.
    (good,) = held_out_clips(source(uri=broken, exclude="text.mp4"), fps=None)
    assert good[1].shape == (5, 24, 24, 3)

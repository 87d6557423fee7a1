"""Published protocols as presets of the configuration, and their published results.

Both use 256×256 pixels, nominally 30 frames per second, and float32. They take every
round(fps / 30)-th frame of a video, in clips of 17 frames (16 for non-causal networks). Copies of
the last frame fill the last clip and count. KL latents are drawn from the posterior, which is the
release's default. v1.1 networks get each video whole, in chunks of 16 frames.

`mcl-jcv` is the MCL-JCV dataset (30 videos), `webvid-val` the validation split of WebVid. The user
provides the videos. Source: VidTok, arXiv 2412.13061, and the tables and the evaluation script of
its release.
"""

from typing import Any, Final

_AS_PUBLISHED: Final[dict[str, Any]] = {
    "clip": {
        "height": 256,
        "width": 256,
        "fps": 30.0,
        "choice": "interval",
        "short": "pad",
        "whole_videos": True,
        "chunk_frames": 16,
        "chunking": "reference",
    },
    "kl_latent": "sample",
}


PROTOCOLS: Final[dict[str, dict[str, Any]]] = {
    "mcl-jcv": _AS_PUBLISHED,
    "webvid-val": _AS_PUBLISHED,
}
"""Settings by name of a protocol; a configuration's own settings override them."""


PUBLISHED: Final[dict[str, dict[str, tuple[float, float, float, float]]]] = {
    "mcl-jcv": {
        "vidtok_fsq_causal_41616_262144": (25.38, 0.738, 0.206, 430.1),
        "vidtok_fsq_causal_488_262144": (29.82, 0.867, 0.106, 160.1),
        "vidtok_fsq_causal_488_32768": (29.16, 0.854, 0.117, 196.9),
        "vidtok_fsq_causal_488_4096": (28.36, 0.832, 0.133, 218.1),
        "vidtok_fsq_noncausal_41616_262144": (26.37, 0.772, 0.171, 357.0),
        "vidtok_fsq_noncausal_488_262144": (30.78, 0.889, 0.091, 132.1),
        "vidtok_kl_causal_288_8chn": (33.86, 0.928, 0.057, 80.7),
        "vidtok_kl_causal_41616_4chn": (25.05, 0.711, 0.228, 549.1),
        "vidtok_kl_causal_444_4chn": (34.78, 0.941, 0.051, 87.2),
        "vidtok_kl_causal_488_16chn": (35.04, 0.942, 0.047, 78.9),
        "vidtok_kl_causal_488_4chn": (29.64, 0.852, 0.114, 194.2),
        "vidtok_kl_causal_488_8chn": (31.83, 0.897, 0.083, 109.3),
        "vidtok_kl_noncausal_41616_16chn": (30.69, 0.878, 0.095, 147.1),
        "vidtok_kl_noncausal_41616_4chn": (26.06, 0.751, 0.190, 423.2),
        "vidtok_kl_noncausal_488_16chn": (36.13, 0.950, 0.044, 60.5),
        "vidtok_kl_noncausal_488_4chn": (30.60, 0.876, 0.098, 157.9),
        "vidtok_fsq_causal_488_32768_v1_1": (29.39, 0.856, 0.114, 168.5),
        "vidtok_fsq_causal_888_32768_v1_1": (27.95, 0.817, 0.142, 293.2),
        "vidtok_kl_causal_288_8chn_v1_1": (34.59, 0.935, 0.051, 78.2),
        "vidtok_kl_causal_41616_16chn_v1_1": (29.61, 0.854, 0.113, 162.7),
        "vidtok_kl_causal_488_16chn_v1_1": (35.13, 0.941, 0.049, 87.4),
    },
    "webvid-val": {},
}
"""(PSNR in dB, SSIM, LPIPS, FVD) by protocol and model; empty where none are published."""

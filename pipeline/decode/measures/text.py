"""Area of text in a picture, by the detector of RapidOCR, whose weights are in its package.

The package is optional. The detector needs about 200 MiB, and on 256×256 pixels a tenth of a second
of a core: far more than the other measures.
"""

from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

_SMALLEST_SIDE: Final = 256
"""Shorter side in pixels to which smaller pictures are enlarged for the detector."""


def text_area(frame: NDArray[Any]) -> float:
    """Return the share of a picture's area that boxes around text cover, in [0, 1].

    Args:
        frame: `[H, W, 3]` in [0, 255], uint8 or float32, which is rounded.
    """
    pixels = np.rint(np.clip(frame, 0, 255)).astype(np.uint8)
    found = _detector()(pixels[..., ::-1], use_det=True, use_cls=False, use_rec=False)
    if found.boxes is None:
        return 0.0
    height, width = pixels.shape[:2]
    covered = Image.new("1", (width, height))
    draw = ImageDraw.Draw(covered)
    for box in found.boxes:
        draw.polygon([(float(x), float(y)) for x, y in box], fill=1)
    return float(np.asarray(covered).mean())


@cache
def _detector() -> Any:
    from rapidocr import RapidOCR

    options = {
        "Global.log_level": "critical",
        "Det.limit_type": "min",
        "Det.limit_side_len": _SMALLEST_SIDE,
        "EngineConfig.onnxruntime.intra_op_num_threads": 1,
        "EngineConfig.onnxruntime.inter_op_num_threads": 1,
        "EngineConfig.onnxruntime.enable_cpu_mem_arena": False,
    }
    return RapidOCR(params=options)

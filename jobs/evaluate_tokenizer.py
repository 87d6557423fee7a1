"""Evaluate tokenizers: `python jobs/evaluate_tokenizer.py [CONFIG] [key=value …]`.

For example, without a file:

    python jobs/evaluate_tokenizer.py 'source=videos/*.mp4' \
        tokenizers=[vidtok_fsq_causal_488_262144_tiny] output=out/evaluation

and, with the released checkpoints and the videos of MCL-JCV, the published table's row:

    python jobs/evaluate_tokenizer.py protocol=mcl-jcv source=MCL-JCV output=out/mcl-jcv \
        'tokenizers=[{name: fsq, model: vidtok_fsq_causal_488_32768, weights: hub}]'

Every setting is a documented field in `pipeline/evaluation/config.py`. With several workers, or
where RAY_ADDRESS is set, it runs on Ray. Exit codes: 0 done, 1 not one video could be evaluated or
an error ended the run, 2 the configuration is wrong.
"""

import sys
from pathlib import Path

# From a checkout that is not installed.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pipeline.commands import evaluate


def main(arguments: list[str]) -> int:
    """Return the exit code of the evaluation."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return 0 if arguments else 2
    return evaluate(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

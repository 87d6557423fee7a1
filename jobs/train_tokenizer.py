"""Train a tokenizer: `python jobs/train_tokenizer.py CONFIG [key=value …]`.

Every setting is a documented field in `pipeline/training/config.py`; `examples/train.yaml` is a run
of a few minutes. The same command again goes on from the last checkpoint. Exit codes: 0 all stages
complete, 1 an error ended the run, 2 the configuration is wrong, 130 interrupted.
"""

import sys
from pathlib import Path

# From a checkout that is not installed.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pipeline.commands import train


def main(arguments: list[str]) -> int:
    """Return the exit code of the training."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return 0 if arguments else 2
    return train(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

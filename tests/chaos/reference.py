"""What an undisturbed job makes of the corpus, without Ray: `tests/chaos/reference.py SETTINGS`."""

import sys

from pipeline.job.config_checks import load_config
from tests.chaos.saboteurs import poison_decoders
from tests.pipeline.forked_decoders import fork_decoders
from tests.pipeline.tokenized import tokenized

if __name__ == "__main__":
    fork_decoders()
    poison_decoders()
    tokenized(load_config(sys.argv[1]))

"""The job's own command, with one unit that is never done: whatever ends it comes before the end.

`python -m tests.jobs.endless_job SETTINGS [key=value …]`; the unit is `shard-003`.
"""

import sys

from pipeline.commands import main
from pipeline.job import graph
from tests.jobs import saboteurs

if __name__ == "__main__":
    graph.DecodeWorker = saboteurs.NeverEndsOneUnit  # type: ignore[misc]
    sys.exit(main(["tokenize", *sys.argv[1:]]))

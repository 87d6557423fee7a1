"""What the scripts of this folder share: they find the package, or say what is missing."""

import sys
from pathlib import Path


def run_verb(name: str) -> int:
    """Run a verb of the command line with the arguments of this process; return its exit code.

    Args:
        name: name of the verb.
    """
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    try:
        from pipeline.commands import main

        return main([name, *sys.argv[1:]])
    except ModuleNotFoundError as error:
        print(
            f"error: {sys.executable} has no module {error.name}; install vidtok-pipeline on every"
            " node, or submit with --runtime-env infra/runtime_env.yaml, which installs what it"
            " needs",
            file=sys.stderr,
        )
        return 2

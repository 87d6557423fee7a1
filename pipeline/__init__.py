"""The corpus job: video in, committed Parquet of VidTok tokens and latents out.

From a notebook or a program:

    config = pipeline.load_config("job.yaml", ["output.uri=out/x"])
    summary = pipeline.run(config)
    dataset = pipeline.open("out/x")

Every error that the pipeline raises on purpose is in `pipeline.errors`.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipeline import errors

if TYPE_CHECKING:
    from pipeline.config.job import JobConfig
    from pipeline.job.progress import Progress
    from pipeline.job.summary import Summary
    from pipeline.operations.opened import OpenDataset

__all__ = ["JobConfig", "errors", "load_config", "open", "run"]

# Imports are inside the functions: every process of a job imports this package, and few need torch.


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("vidtok-pipeline")
    if name != "JobConfig":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pipeline.config.job import JobConfig

    return JobConfig


def open(
    uri: str, version: int | None = None, storage_options: Mapping[str, Any] | None = None
) -> "OpenDataset":
    """Open a dataset for reading.

    Args:
        uri: root of the dataset: a folder, or `s3://…`.
        version: number of the log's last record that counts. None: the newest.
        storage_options: options for fsspec, such as endpoint and credentials. None: they come from
            the environment.

    Raises:
        ConfigError: there is no dataset, it is of another format version, or the log ends before
            this version.
        StoreError: a part of this version was deleted, some of its samples were forgotten since
            then, the log is damaged, or the store refuses a request.
    """
    from pipeline.operations.opened import open_for_display

    return open_for_display(uri, version, storage_options)


def load_config(path: str, overrides: Sequence[str] = ()) -> "JobConfig":
    """Read and check the configuration of a job.

    Args:
        path: a YAML file.
        overrides: `dotted.key=value`, with the value in YAML. A number selects an item of a list.

    Raises:
        ConfigError: the configuration is wrong; the text has one line per error.
    """
    from pipeline.job.config_checks import load_config as load

    return load(path, overrides)


def run(config: "JobConfig", progress: "Progress | None" = None) -> "Summary":
    """Run a job: tokenize everything that the output does not contain yet.

    Args:
        config: the job, read by `load_config` or made as a `JobConfig`.
        progress: receives the events of the run. None prints them as the command line does.

    Raises:
        ConfigError: the configuration is wrong, or does not fit the sources, the output or the
            cluster; no work was done.
        StoreError: the output failed, and all retries failed too.
        OverBudget: too many samples are quarantined.
    """
    from pipeline.job.config_checks import check_job
    from pipeline.job.progress import ConsoleProgress

    if faults := check_job(config):
        raise errors.ConfigError("\n".join(map(str, faults)))
    from pipeline.job.driver import run as run_job

    return run_job(config, progress or ConsoleProgress())

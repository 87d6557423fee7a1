"""Verbs that run a job, or plan one."""

from typing import Annotated

import typer

from pipeline.commands.settings import Kind, completes_settings
from pipeline.commands.verb import (
    RUN_AGAIN,
    AsJson,
    Config,
    Overrides,
    Ray,
    amount,
    count,
    settings_of,
    show,
    use_ray,
    verb,
)
from pipeline.errors import UNBALANCED
from pipeline.logs import write_lines

_PANEL = "Jobs"


@verb(_PANEL, advice=RUN_AGAIN)
def tokenize(config: Config, overrides: Overrides = None, ray: Ray = None) -> int:
    """Tokenize a corpus into a dataset.

    Commits each finished unit (a tar or a group of files) to output.uri. The same command continues
    an interrupted run. All settings are documented in docs/reference/job-settings.md, and in the
    JSON Schema that `schema job` prints.

    Exit codes: 0 every unit is committed and every sample and clip is accounted for; 1 a unit
    failed, counts do not match, or an error ended the job; 2 the configuration is wrong and
    nothing was started; 130 interrupted.
    """
    from pipeline.job.config_checks import load_config
    from pipeline.job.progress import ConsoleProgress

    settings = load_config(config, overrides or ())
    use_ray(ray)
    from pipeline.job.driver import run  # loads torch: only after the configuration is read

    return show(run(settings, ConsoleProgress()))


@verb(_PANEL, advice=RUN_AGAIN)
def embed(
    config: Config,
    overrides: Annotated[list[str] | None, settings_of(Kind.EMBED)] = None,
    ray: Ray = None,
) -> int:
    """Compute text embeddings of a dataset's captions.

    Writes a second dataset with the same rows as the dataset in the setting `from`, but with
    embeddings as columns. Commits each finished unit to output.uri. The same command continues an
    interrupted run. It also embeds units that were added to the first dataset since then. All
    settings are documented in docs/reference/embed-settings.md.

    Exit codes: 0 every unit is committed; 1 a unit failed, or an error ended the run; 2 the
    configuration is wrong and nothing was started; 130 interrupted.
    """
    from pipeline.job.config_checks import load_embed_config
    from pipeline.job.progress import ConsoleProgress

    settings = load_embed_config(config, overrides or ())
    use_ray(ray)
    from pipeline.job.driver import run  # loads torch: only after the configuration is read

    return show(run(settings, ConsoleProgress()))


@verb(_PANEL)
def plan(
    config: Config,
    overrides: Overrides = None,
    look: Annotated[int, count("Number of units to read as a sample.")] = 4,
    seconds: Annotated[
        float,
        amount("Time budget in seconds for trial decoding and tokenizing; 0 only counts samples."),
    ] = 60,
    price_cpu_hour: Annotated[float | None, amount("Price of one CPU for one hour.")] = None,
    price_gpu_hour: Annotated[float | None, amount("Price of one GPU for one hour.")] = None,
    as_json: AsJson = False,
) -> int:
    """Estimate the work, output size, time and price of a job.

    Reads and tokenizes a few units (tars, or groups of files) as a trial. Writes nothing.

    Exit codes: 0 the job can start; 1 a store failed; 2 the configuration is wrong.
    """
    from pipeline.job.config_checks import load_config

    settings = load_config(config, overrides or ())
    from pipeline.operations.plan.plan import plan_job  # loads torch

    plan = plan_job(
        settings,
        probes=look,
        seconds=seconds,
        price_cpu_hour=price_cpu_hour,
        price_gpu_hour=price_gpu_hour,
    )
    return show(plan, as_json)


@verb(_PANEL, advice=RUN_AGAIN)
def train(
    config: Config,
    overrides: Annotated[list[str] | None, settings_of(Kind.TRAIN)] = None,
    ray: Ray = None,
) -> int:
    """Train a tokenizer.

    Writes checkpoints, measurements and the trained weights to output. The same command
    continues from the last checkpoint. With workers=1 or more, it runs on Ray. All settings are
    documented in docs/reference/train-settings.md.

    Exit codes: 0 all stages are complete; 1 an error ended the run; 2 the configuration is
    wrong; 130 interrupted.
    """
    from pipeline.config.loading import load
    from pipeline.training.checks import check_training
    from pipeline.training.config import TrainConfig

    settings = load(config, overrides or (), TrainConfig, check_training)
    use_ray(ray)
    from pipeline.training.launch import launch

    launch(settings, lambda line: write_lines([line]))
    return 0


@verb(_PANEL)
def evaluate(
    settings: Annotated[
        list[str],
        typer.Argument(
            metavar="[CONFIG] KEY=VALUE",
            help="YAML file with the settings, and settings that override the file.",
            autocompletion=completes_settings(Kind.EVALUATE),
        ),
    ],
    ray: Ray = None,
) -> int:
    """Measure the reconstruction quality of tokenizers on held-out videos.

    Writes scores, tables and pictures to output. Without a file, three settings are enough:
    source='videos/*.mp4' tokenizers=vidtok_fsq_causal_488_262144_tiny output=out/evaluation.
    With --ray, or with workers=2 or more, it runs on Ray. All settings are documented in
    docs/reference/evaluate-settings.md.

    Exit codes: 0 at least one video was evaluated; 1 no video was evaluated, or an error ended the
    run; 2 the configuration is wrong; 130 interrupted.
    """
    from rich.console import Console

    from pipeline.config.loading import load
    from pipeline.evaluation.checks import check_evaluation
    from pipeline.evaluation.config import EvaluationConfig

    path = None if "=" in settings[0] else settings[0]
    config = load(path, settings[path is not None :], EvaluationConfig, check_evaluation)
    use_ray(ray)
    from pipeline.evaluation.run import run_evaluation  # loads torch

    with Console().status("evaluating") as status:
        done = run_evaluation(
            config,
            lambda n, of: status.update(f"{n} of {of} videos and tars"),
            lambda line: write_lines([line]),
        )
    write_lines(done.lines)
    return 0 if done.results["videos"] else UNBALANCED

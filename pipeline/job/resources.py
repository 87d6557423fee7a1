"""How many actors a job starts, and what each asks of the cluster. This is arithmetic only."""

from dataclasses import dataclass
from typing import Final

from pipeline.config.embed import EmbedConfig
from pipeline.config.job import JobConfig
from pipeline.errors import ConfigError
from pipeline.formatting import counted

_ROOMY_CPUS: Final = 8
"""CPUs from which a cluster has room for commits beside the actors."""

_COMMIT_CPUS: Final = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation:
    """The number of actors of each pool, and the CPUs and GPUs of one actor or task."""

    device: str
    decode_actors: int
    decode_cpus: float
    tokenize_actors: int
    tokenize_cpus: float
    tokenize_gpus: float
    commit_cpus: float
    """CPUs of a commit; 0 on small clusters, where actors might never leave room for one."""

    def starts(self, tokenizers: str) -> str:
        """Return what a pass starts, for the user.

        Args:
            tokenizers: names of the tokenizers, which each tokenize actor loads.
        """
        decode = counted(self.decode_actors, "decode actor")
        tokenize = counted(self.tokenize_actors, "tokenize actor")
        return f"{decode} and {tokenize} on {self.device}, which load {tokenizers}"

    @property
    def cpus(self) -> float:
        """Return the CPUs of all actors."""
        return self.decode_actors * self.decode_cpus + self.tokenize_actors * self.tokenize_cpus


def allocate(
    config: JobConfig | EmbedConfig, *, cpus: float, gpus: float, units: int, may_grow: bool = False
) -> Allocation:
    """Divide a cluster between decode, tokenize and commit.

    Args:
        config: the job; it may set the number of actors.
        cpus: CPUs of the whole cluster.
        gpus: GPUs of the whole cluster.
        units: units of the pass, the maximum number of decode actors.
        may_grow: whether more nodes may join. Then a job asks for all actors that its settings
            name, so that an autoscaler sees them. Otherwise actors that do not fit get smaller
            shares of the CPUs, since an actor that never starts would stop the job.

    Raises:
        ConfigError: the settings ask for GPUs and the cluster has too few or none.
    """
    settings = config.tokenize
    on_gpu = settings.device == "cuda" or (settings.device == "auto" and gpus > 0)
    if on_gpu:
        fitting = int(gpus / settings.gpus_per_actor + 1e-9)
        if fitting == 0 and not may_grow:
            raise ConfigError(
                f"tokenize.device = {settings.device}: the cluster has {gpus:g} GPUs, an actor"
                f" needs {settings.gpus_per_actor:g}; set tokenize.device=cpu"
            )
        tokenizers = settings.actors or max(1, fitting)
        tokenize_cpus = 0.0
    elif compiled := _compiled(config):
        raise ConfigError(f"{compiled}.compile = true: needs GPUs; leave it out on CPUs")
    else:
        tokenizers = settings.actors or max(1, int(cpus / 2 / settings.threads))
        tokenize_cpus = float(settings.threads)
    for_commits = config.commit.open_units * _COMMIT_CPUS if cpus >= _ROOMY_CPUS else 0.0
    free = cpus - tokenizers * tokenize_cpus - for_commits
    decoders = min(config.decode.actors or max(1, int(free)), max(1, units))
    wanted = decoders + tokenizers * tokenize_cpus
    named = config.decode.actors is not None or settings.actors is not None
    waits = may_grow and (named or cpus < 1)
    share = 1.0 if waits or wanted <= cpus else cpus / wanted
    return Allocation(
        device="cuda" if on_gpu else "cpu",
        decode_actors=decoders,
        decode_cpus=_rounded_down(share),
        tokenize_actors=tokenizers,
        tokenize_cpus=_rounded_down(tokenize_cpus * share),
        tokenize_gpus=settings.gpus_per_actor if on_gpu else 0.0,
        commit_cpus=_COMMIT_CPUS if for_commits and wanted + for_commits <= cpus else 0.0,
    )


def _compiled(config: JobConfig | EmbedConfig) -> str | None:
    """Return the name of the first tokenizer that is compiled, as settings name it."""
    specs = enumerate(config.tokenizers if isinstance(config, JobConfig) else ())
    return next((f"tokenizers.{n}" for n, spec in specs if spec.compile), None)


def _rounded_down(cpus: float) -> float:
    """Return CPUs in steps of 1/1000. Rounding up would leave the last actor without room."""
    return int(cpus * 1000) / 1000

"""Whether the nodes that tokenize compute in the precision that the fingerprint names.

A driver of a job in float32 does not import torch, which takes more than a second.
"""

from collections.abc import Callable, Sequence

from pipeline.config.embed import EmbedConfig
from pipeline.config.job import JobConfig
from pipeline.errors import ConfigError
from pipeline.job.nodes import alive_nodes, ask_other_nodes, this_node


def slow_nodes(precision: str) -> list[str]:
    """Return the names of the nodes that can take work and whose CPUs are slower in a precision."""
    fast = ask_other_nodes(_is_fast, precision)
    own = this_node()
    if any(node.name == own and node.cpus for node in alive_nodes()):
        fast[own] = _is_fast(precision)
    return sorted(name for name, is_fast in fast.items() if not is_fast)


def _is_fast(precision: str) -> bool:
    from pipeline.tokenizers.models import DTYPES
    from vidtok import half

    return half.cpu_is_fast(DTYPES[precision])


def require_fast_precision(
    config: JobConfig | EmbedConfig,
    device: str,
    slow: Callable[[str], Sequence[str]] = slow_nodes,
) -> None:
    """Refuse a half precision on CPUs that are slower in it than in float32.

    Text encoders may use it: it halves their memory, which can be more than a node has.

    Args:
        config: the job.
        device: device of the tokenizers, `cpu` or `cuda`.
        slow: function that returns the names of the nodes that are slower in a precision.

    Raises:
        ConfigError: a node that can take work has such a CPU.
    """
    if device != "cpu" or isinstance(config, EmbedConfig):
        return
    for n, spec in enumerate(config.tokenizers):
        if spec.precision != "float32" and (nodes := slow(spec.precision)):
            raise ConfigError(
                f"tokenizers.{n}.precision = {spec.precision}: slower than float32 on the CPU of"
                f" node {', '.join(nodes)}; set it to float32, or tokenize on GPUs"
            )

"""Safetensors files that others can read, and that are whole or absent."""

from collections.abc import Mapping
from pathlib import Path
from uuid import uuid4

from safetensors.torch import save
from torch import Tensor


def write_tensors(tensors: Mapping[str, Tensor], target: Path, metadata: dict[str, str]) -> None:
    """Write contiguous tensors of any device; an existing file is replaced.

    The permissions are those of any new file. `safetensors.torch.save_file` has made files for
    their owner alone since version 0.8.

    Raises:
        OSError: the file cannot be written; it names the target.
    """
    temporary = target.with_name(f".{target.name}.{uuid4().hex}")
    try:
        temporary.write_bytes(save(dict(tensors), metadata))
        temporary.replace(target)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(target)) from error
    finally:
        temporary.unlink(missing_ok=True)

"""What a stage begins with: its weights, and the networks that its losses and scores need."""

import tempfile
from pathlib import Path
from typing import Final

import vidtok
from pipeline.config.job import HUB, RANDOM
from pipeline.errors import ConfigError
from pipeline.storage.store import Store
from pipeline.training.config import ObjectiveSection, StageConfig, TrainConfig
from vidtok import channels
from vidtok.lpips import LPIPS, load_lpips
from vidtok.presets import named_config
from vidtok.training.features import load_features
from vidtok.training.objective import Perceptual
from vidtok.training.perceptual import structural_distance

WEIGHTS: Final = "model.safetensors"
"""Name of the file in a stage's folder with its last averaged weights."""


def initial_weights(
    config: TrainConfig, stage: StageConfig, before: Store | None
) -> vidtok.Tokenizer:
    """Return the tokenizer that a stage begins with.

    Args:
        config: the run.
        stage: the stage.
        before: folder of the stage before; None for the first stage.

    Raises:
        ConfigError: the weights do not exist, or belong to another model.
    """
    model = config.model_of(stage)
    if before is not None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / WEIGHTS
            for file in (path, channels.beside(path)):
                if before.exists(file.name):
                    file.write_bytes(before.read(file.name))
            return _as_model(vidtok.load(path), model, f"stage {stage.name}")
    if config.weights == RANDOM:
        return vidtok.build(model, seed=config.seed)
    where = f"weights = {config.weights}"
    # A .ckpt does not name its model; its tensors are checked either way.
    named = model if config.weights.endswith(".ckpt") else None
    source = config.model if config.weights == HUB else config.weights
    try:
        return _as_model(vidtok.load(source, config=named), model, where)
    except (ValueError, OSError, ImportError) as error:
        raise ConfigError(f"{where}: {error}") from error


def _as_model(tokenizer: vidtok.Tokenizer, model: str, where: str) -> vidtok.Tokenizer:
    """Return the tokenizer under another name; v1.0 and v1.1 have the same tensors.

    Raises:
        ConfigError: the named model has other tensors.
    """
    if named_config(model).digest == tokenizer.config.digest:
        return tokenizer
    wanted = vidtok.build(model, seed=0)
    try:
        wanted.load_state_dict(tokenizer.state_dict())
    except RuntimeError as error:
        raise ConfigError(
            f"{where}: has the tensors of {tokenizer.config.name}, not of {model}; name weights or"
            " a model that match"
        ) from error
    wanted.channels = tokenizer.channels
    return wanted


def find_lpips(terms: ObjectiveSection, device: str) -> tuple[LPIPS | None, str]:
    """Return LPIPS if its weights are found, or None and why not."""
    try:
        return load_lpips(Path(terms.vgg16) if terms.vgg16 else None).to(device), ""
    except (FileNotFoundError, ValueError) as error:
        return None, str(error)


def validation_lpips(config: TrainConfig, stage: StageConfig, device: str) -> LPIPS | None:
    """Return LPIPS for the held-out clips; None if its weights are not found.

    Raises:
        ConfigError: they are not found, and LPIPS decides which weights are best.
    """
    lpips, missing = find_lpips(stage.objective, device)
    if lpips is None and config.validation is not None and config.validation.best_by == "lpips":
        raise ConfigError(f"validation.best_by = lpips: {missing}")
    return lpips


def perceptual_term(terms: ObjectiveSection, device: str) -> tuple[Perceptual | None, str]:
    """Return the perceptual distance of an objective, and its name.

    Raises:
        ConfigError: the weights of LPIPS or the network of the features are not found.
    """
    if terms.perceptual == "none":
        return None, "none"
    if terms.perceptual == "features":
        assert terms.features is not None  # checks.py requires it
        try:
            distance = load_features(Path(terms.features), device)
        except (FileNotFoundError, ValueError) as error:
            raise ConfigError(f"perceptual = features: {error}") from error
        return distance, f"features of {terms.features}"
    if terms.perceptual == "structural":
        return structural_distance, "structural (edges and SSIM; not LPIPS)"
    lpips, missing = find_lpips(terms, device)
    if lpips is not None:
        return lpips, "lpips"
    if terms.perceptual == "lpips":
        raise ConfigError(f"perceptual = lpips: {missing}")
    return structural_distance, f"structural (edges and SSIM; no LPIPS: {missing})"


def require_networks(config: TrainConfig, stage: StageConfig) -> None:
    """Require that the networks of a stage's losses and scores can be loaded.

    Raises:
        ConfigError: as `perceptual_term` and `validation_lpips`.
    """
    perceptual_term(stage.objective, "cpu")
    validation_lpips(config, stage, "cpu")

"""Text encoders of the package transformers: a caption in, the embedding of its tokens out.

Every caption is encoded alone and without padding. So its embedding does not depend on the captions
beside it, and equals a direct call of the library. A large encoder loses little: at a hundred
tokens the arithmetic takes as long as reading its weights.
"""

import hashlib
import json
import re
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from pipeline.config.embed import EmbedderSpec
from pipeline.dataset.cells import from_tensor
from pipeline.dataset.embeddings import Embedding
from pipeline.dataset.metadata import fingerprint_of
from pipeline.dataset.schema import TokenizerColumn
from pipeline.errors import ConfigError, one_line
from pipeline.tokenizers.checks import absolute_path
from pipeline.tokenizers.models import DTYPES
from vidtok.digest import weights_digest

PROBE: Final = "a video"
"""Text that is encoded to see whether an encoder works."""

_TOKENIZER_FILES: Final = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.model",
)

_NO_IDENTITY: Final = ("_name_or_path", "transformers_version", "dtype", "torch_dtype")
"""Keys of a model's configuration that do not change its output."""

_HUB_ID: Final = re.compile(r"([\w.-]+/[\w.-]+)(?:/(.+))?")


@dataclass(frozen=True, slots=True)
class OpenedEncoder:
    """What the driver keeps of a text encoder after it has loaded it once."""

    column: TokenizerColumn
    digest: str
    """Digest of its tensors and of the tokenizer's files."""
    identity: dict[str, Any]
    """All that changes the embeddings."""


class TextEncoder:
    """Encodes captions into the cells of one column; threads may share it.

    Args:
        spec: settings of the encoder.
        model: encoder in eval mode.
        tokenizer: its tokenizer.
        column: column that holds the cells.
    """

    def __init__(
        self, spec: EmbedderSpec, model: Any, tokenizer: Any, column: TokenizerColumn
    ) -> None:
        self.column = column
        self._spec = spec
        self._model = model
        self._tokenizer = tokenizer
        # Tokenizers refuse calls of two threads at once, and models may keep state.
        self._lock = threading.Lock()

    def __call__(self, text: str) -> Embedding:
        """Return the embedding of a text.

        Raises:
            ValueError: it has a value that is not finite.
        """
        with self._lock:
            ids = self._tokenizer(text, truncation=True, max_length=self._spec.max_tokens)
            tokens = ids["input_ids"]
            stored = self._embedding(tokens).to(getattr(torch, self.column.dtype))
        if not bool(torch.isfinite(stored).all()):
            raise ValueError(
                f"{self.column.name}: NaN or infinity in the embedding of {text[:80]!r}; set its"
                " dtype and precision to one with a larger range"
            )
        return Embedding(tuple(tokens), from_tensor(stored, self.column))

    def _embedding(self, tokens: list[int]) -> torch.Tensor:
        """Return the embedding [tokens, channels] of tokens."""
        if not tokens:  # of the empty text, where a tokenizer adds no special tokens
            return torch.zeros(0, self._model.config.get_text_config().hidden_size)
        ids = torch.tensor([tokens], device=self._model.device)
        with torch.inference_mode():
            output = self._model(input_ids=ids, attention_mask=torch.ones_like(ids))
        if self._spec.pooled:
            return output.pooler_output  # type: ignore[no-any-return]
        return output.last_hidden_state[0]  # type: ignore[no-any-return]


def absolute_paths(spec: EmbedderSpec) -> EmbedderSpec:
    """Return settings whose folders mean the same in every process."""
    places = {"weights": spec.weights, "tokenizer": spec.tokenizer}
    return spec.model_copy(update={key: absolute_path(place) for key, place in places.items()})


def open_text_encoder(spec: EmbedderSpec) -> OpenedEncoder:
    """Load a text encoder once, on the CPU, for its column and its identity.

    Raises:
        ConfigError: the class or the weights do not exist, or do not fit each other.
    """
    folder, digest, model, tokenizer = _open(spec)
    settings = json.loads((folder / "config.json").read_text())
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if limit and limit < spec.max_tokens:
        raise ConfigError(
            f"embedder {spec.name}: max_tokens = {spec.max_tokens}: {spec.model} takes at most"
            f" {limit}"
        )
    # Of the column, only the type of its cells is used; the rest is not known yet.
    column = _column(spec, "")
    width = _tried(spec, model, tokenizer, column).cells.shape[-1]
    identity = {
        "model": spec.model,
        "config": {key: value for key, value in settings.items() if key not in _NO_IDENTITY},
        "weights": digest,
        "width": width,
        "max_tokens": spec.max_tokens,
        "precision": spec.precision,
        "dtype": spec.dtype,
        "pooled": spec.pooled,
    }
    return OpenedEncoder(_column(spec, fingerprint_of(identity)), digest, identity)


def load_encoder(
    spec: EmbedderSpec, column: TokenizerColumn, *, weights: str, device: str
) -> TextEncoder:
    """Return a text encoder that is ready on a node.

    Args:
        spec: settings of the encoder.
        column: column that it writes.
        weights: digest that the driver found.
        device: `cpu` or `cuda`.

    Raises:
        ConfigError: this node has other files under the same name.
    """
    folder, digest, model, tokenizer = _open(spec)
    if digest != weights:
        raise ConfigError(
            f"embedder {spec.name}: weights = {spec.weights}: digest {digest}, but the run was"
            f" planned with {weights}; copy the same files to every node"
        )
    dtype = DTYPES[spec.precision]
    if model.dtype != dtype:
        model = _model(spec, folder, dtype)
    return TextEncoder(spec, model.to(device), tokenizer, column)


def _column(spec: EmbedderSpec, fingerprint: str) -> TokenizerColumn:
    return TokenizerColumn(
        name=spec.name,
        kind="embeddings",
        dtype=spec.dtype,
        axes=("n", "c"),
        model=spec.model,
        fingerprint=fingerprint,
    )


def _tried(spec: EmbedderSpec, model: Any, tokenizer: Any, column: TokenizerColumn) -> Embedding:
    """Return the embedding of `PROBE`, which shows that model and tokenizer fit."""
    try:
        return TextEncoder(spec, model, tokenizer, column)(PROBE)
    except Exception as error:  # any: it comes from a class that the user named
        raise ConfigError(
            f"embedder {spec.name}: {spec.model} and its tokenizer cannot embed a short text:"
            f" {one_line(error)}"
        ) from error


def _open(spec: EmbedderSpec) -> tuple[Path, str, Any, Any]:
    """Return the folder of the weights, the digest, the model as stored, and the tokenizer."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    folder = _folder(spec.weights, f"embedder {spec.name}: weights")
    words = _tokenizer_folder(spec, folder)
    model = _model(spec, folder, "auto")
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(words)
    except Exception as error:  # of many kinds, by the tokenizer's class
        text = f"embedder {spec.name}: tokenizer = {words}: {one_line(error)}"
        raise ConfigError(text) from error
    digest = hashlib.sha256(weights_digest(model.state_dict()).encode())
    for path in sorted({path for name in _TOKENIZER_FILES for path in words.glob(name)}):
        digest.update(f"{path.name} {path.stat().st_size}\n".encode() + path.read_bytes())
    return folder, digest.hexdigest()[:32], model, tokenizer


def _model(spec: EmbedderSpec, folder: Path, dtype: Any) -> Any:
    """Return the model in eval mode on the CPU; every tensor is one of the file's."""
    import transformers

    where = f"embedder {spec.name}"
    name = spec.model.partition(":")[2]
    kind: Any = getattr(transformers, name, None)
    if not hasattr(kind, "from_pretrained"):
        raise ConfigError(
            f"{where}: model = {spec.model}: transformers has no model class {name}; correct the"
            " name, or install a newer transformers"
        )
    try:
        model, found = kind.from_pretrained(folder, dtype=dtype, output_loading_info=True)
    except Exception as error:  # of many kinds, by the model's class
        raise ConfigError(f"{where}: weights = {folder}: {one_line(error)}") from error
    if missing := sorted(found["missing_keys"]):
        raise ConfigError(
            f"{where}: weights = {folder}: not those of {name}: {len(missing)} tensors are missing,"
            f" the first is {missing[0]}; set model to their class"
        )
    return model.eval()


def _folder(name: str, where: str) -> Path:
    """Return the local folder of a name in the settings; a model on the Hub is downloaded."""
    if Path(name).is_dir():
        return Path(name)
    found = _HUB_ID.fullmatch(name)
    if not found:
        raise ConfigError(f"{where} = {name}: neither a folder nor the id of a model on the Hub")
    from huggingface_hub import snapshot_download

    repo, inside = found.groups()
    inside = f"{inside}/" if inside else ""
    folders = {inside, inside.replace("text_encoder", "tokenizer")}
    wanted = [f + file for f in folders for file in ("*.safetensors", "*.json", "*.model", "*.txt")]
    try:
        root = Path(snapshot_download(repo, allow_patterns=wanted))
    except Exception as error:  # of the network, the Hub, or the disk
        raise ConfigError(f"{where} = {name}: no such folder, and {one_line(error)}") from error
    return root / inside


def _tokenizer_folder(spec: EmbedderSpec, weights: Path) -> Path:
    if spec.tokenizer is not None:
        return _folder(spec.tokenizer, f"embedder {spec.name}: tokenizer")
    beside = weights.name.replace("text_encoder", "tokenizer")
    for folder in (weights, weights / "tokenizer", weights.parent / beside):
        if any(folder.glob("tokenizer*.json")):
            return folder
    raise ConfigError(
        f"embedder {spec.name}: weights = {weights}: there is no tokenizer there, in its"
        f" folder tokenizer, or in {weights.parent / beside}; set tokenizer to its folder"
    )

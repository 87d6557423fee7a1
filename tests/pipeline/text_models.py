"""Text encoders with random weights, in the folders that transformers writes."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

from tests.lazy import transformers

CAPTIONS = ["a man walks", "two dogs run over the green field", ""]

T5 = {"vocab_size": 96, "d_model": 32, "d_kv": 8, "num_heads": 4, "d_ff": 48, "num_layers": 2}
CLIP = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 24,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "T5EncoderModel": ("T5Config", T5),
    "UMT5EncoderModel": ("UMT5Config", T5),
    "CLIPTextModel": ("CLIPTextConfig", CLIP),
}


def save_text_model(folder: Path, name: str = "UMT5EncoderModel", seed: int = 0) -> Path:
    """Write a random model of a class and a tokenizer into a folder; return the folder."""
    torch.manual_seed(seed)
    config, values = CONFIGS[name]
    model = getattr(transformers, name)(getattr(transformers, config)(**values))
    model.save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def save_tokenizer(folder: Path) -> None:
    """Write a tokenizer that puts a token after each text."""
    words = Tokenizer(models.BPE(unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<pad>", "<unk>", "</s>"]
    words.train_from_iterator(CAPTIONS, trainers.BpeTrainer(vocab_size=96, special_tokens=special))
    words.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 2)]
    )
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", unk_token="<unk>", eos_token="</s>"
    )
    fast.save_pretrained(folder)


def called(folder: Path, name: str, text: str, max_tokens: int = 512) -> Any:
    """Return the output of a direct call of the library."""
    model = getattr(transformers, name).from_pretrained(folder).eval()
    fast = transformers.AutoTokenizer.from_pretrained(folder)
    inputs = fast(text, return_tensors="pt", truncation=True, max_length=max_tokens)
    with torch.no_grad():
        return model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])

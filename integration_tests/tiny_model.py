"""A random transformer of a few kilobytes with a tokenizer over a few words, so that whole life cycles take seconds."""

from __future__ import annotations

import random
from pathlib import Path

POSITIVE = ["a", "warm", "funny", "and", "moving", "film", "great", "wonderful", "charming", "delight"]
NEGATIVE = ["this", "dull", "mess", "of", "clumsy", "jokes", "awful", "boring", "tedious", "waste"]


def texts(count: int) -> tuple[list[str], list[int]]:
    """Made-up snippets and their labels (1: of friendly words); the first ones are the same however many are asked for."""
    source = random.Random(0)
    rows = []
    for _ in range(count):
        label = source.randrange(2)
        rows.append((" ".join(source.choices(POSITIVE if label else NEGATIVE, k=6)), label))
    return [text for text, _ in rows], [label for _, label in rows]


def write_tiny_model(folder: Path, model_type: str = "bert") -> Path:
    """A random BERT or RoBERTa (2 layers of width 32) and a tokenizer over a few words, as `from_pretrained` reads them."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast, RobertaConfig, RobertaModel

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = sorted({*POSITIVE, *NEGATIVE, "i", "liked", "it", "the", "is", ".", "!", "movie", "not", "good", "bad"})
    vocabulary = {word: i for i, word in enumerate(special + words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), special, strict=True))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **names).save_pretrained(folder)
    sizes = {
        "vocab_size": len(vocabulary),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 80,
        "pad_token_id": 0,
        "initializer_range": 0.2,  # large enough that words still differ behind two random layers
    }
    torch.manual_seed(0)
    model = RobertaModel(RobertaConfig(**sizes)) if model_type == "roberta" else BertModel(BertConfig(**sizes))
    model.save_pretrained(folder)
    return folder

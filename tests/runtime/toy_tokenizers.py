"""Small tokenizers of each kind, built and trained on the spot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

CORPUS = [
    "Hello world, this is a small text about adding numbers: 12 + 30 = 42.",
    "Überraschung! Der Bär fährt über die Brücke; naïve café, señor, 你好世界 😀👩‍👩‍👧.",
    "  def f(x):\n\treturn x ** 2  # spaces   and\ttabs\n\n",
] * 3  # fmt: skip

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{{ eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def byte_level() -> Tokenizer:
    """Byte-level BPE, as Llama 3 and Qwen have it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    _add_special(tokenizer)
    return tokenizer


def metaspace() -> Tokenizer:
    """BPE over ``▁`` with bytes to fall back on, as Llama 2 and the first Mistral have it."""
    letters = sorted({c for text in CORPUS for c in text if ord(c) < 0x250 and c not in " \n\t"})
    vocab = {"<unk>": 0, **{f"<0x{byte:02X}>": byte + 1 for byte in range(256)}}
    for letter in ["▁", *letters]:
        vocab.setdefault(letter, len(vocab))
    merges = []
    for word in ("▁Hello", "▁world", "▁this", "▁is", "▁a", "▁text", "the", "ing", "▁12", "ää"):
        left = word[0]
        for right in word[1:]:
            vocab.setdefault(right, len(vocab))
            vocab.setdefault(left, len(vocab))
            if (left, right) not in merges:
                merges.append((left, right))
            left += right
            vocab.setdefault(left, len(vocab))
    tokenizer = Tokenizer(
        models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(
        replacement="▁", prepend_scheme="first", split=False
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )  # fmt: skip
    _add_special(tokenizer)
    return tokenizer


def word_piece() -> Tokenizer:
    """WordPiece, whose spaces ``clean_up_tokenization_spaces`` is for."""
    words = ["[UNK]", "hello", "world", ",", ".", "!", "'", "don", "n", "t", "s", "it", "is", "##s"]
    tokenizer = Tokenizer(models.WordPiece(vocab={w: i for i, w in enumerate(words)},
                                           unk_token="[UNK]"))  # fmt: skip
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(cleanup=False)
    _add_special(tokenizer)
    return tokenizer


KINDS = {"byte-level": byte_level, "metaspace": metaspace, "word-piece": word_piece}


def save(folder: Path, tokenizer: Tokenizer, **config: Any) -> Path:
    """Write a model folder with the tokenizer's files."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    defaults = {
        "bos_token": "<s>", "eos_token": "</s>", "chat_template": CHAT_TEMPLATE,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }  # fmt: skip
    write_json(folder / "tokenizer_config.json", defaults | config)
    return folder


def write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


def _add_special(tokenizer: Tokenizer) -> None:
    special = ["<s>", "</s>", "<|user|>", "<|assistant|>"]
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special])
    tokenizer.add_tokens([AddedToken("<tool>", special=False, normalized=False)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )

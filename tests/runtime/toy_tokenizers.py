"""Small tokenizers of each kind, built on the spot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

WORDS = ["Hello", " world", " this", " is", " a", " text", "the", "ing", " 12", "ää", "你好", "😀"]

LETTERS = "".join(map(chr, range(0x21, 0x7F))) + "äöüßéïñ"

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{{ eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def byte_level() -> Tokenizer:
    """Byte-level BPE, as Llama 3 and Qwen have it."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {letter: place for place, letter in enumerate(alphabet)}
    split = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    merges = _merge(vocab, [split.pre_tokenize_str(word)[0][0] for word in WORDS])
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return _add_special(tokenizer)


def metaspace() -> Tokenizer:
    """BPE over ``▁`` with bytes to fall back on, as Llama 2 and the first Mistral have it."""
    vocab = {"<unk>": 0, **{f"<0x{byte:02X}>": byte + 1 for byte in range(256)}}
    for letter in ["▁", *LETTERS]:
        vocab[letter] = len(vocab)
    known = [word.replace(" ", "▁") for word in WORDS if word.strip()[0] in LETTERS]
    merges = _merge(vocab, known)
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
    return _add_special(tokenizer)


def word_piece() -> Tokenizer:
    """WordPiece, whose spaces ``clean_up_tokenization_spaces`` is for."""
    words = ["[UNK]", "hello", "world", ",", ".", "!", "'", "don", "n", "t", "s", "it", "is", "##s"]
    tokenizer = Tokenizer(models.WordPiece(vocab={w: i for i, w in enumerate(words)},
                                           unk_token="[UNK]"))  # fmt: skip
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(cleanup=False)
    return _add_special(tokenizer)


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


def _merge(vocab: dict[str, int], words: list[str]) -> list[tuple[str, str]]:
    """Merges that build up ``words`` from the left, whose tokens are added to ``vocab``."""
    merges: dict[tuple[str, str], None] = {}
    for word in words:
        for end in range(1, len(word)):
            merges[word[:end], word[end]] = None
            vocab.setdefault(word[: end + 1], len(vocab))
    return list(merges)


def _add_special(tokenizer: Tokenizer) -> Tokenizer:
    special = ["<s>", "</s>", "<|user|>", "<|assistant|>"]
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special])
    tokenizer.add_tokens([AddedToken("<tool>", special=False, normalized=False)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    return tokenizer

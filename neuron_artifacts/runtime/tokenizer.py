"""A model's tokenizer, read as transformers' fast tokenizers read it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuron_artifacts._files import read_regular, shorten
from neuron_artifacts.errors import ModelFormatError, RequestError
from neuron_artifacts.model.snapshot import (
    MAX_JSON_BYTES,
    SAVE_TOKENIZER,
    TOKENIZER_NAME,
    read_json,
)
from neuron_artifacts.runtime.tokenizer_growth import grows_too_much, has_sound_tables

if TYPE_CHECKING:
    import tokenizers

SPECIAL_NAMES = (
    "bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token",
)  # fmt: skip

_MAX_TEMPLATE_BYTES = 1 << 20
_SPACED = (
    (" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't"),
    (" 'm", "'m"), (" 's", "'s"), (" 've", "'ve"), (" 're", "'re"),
)  # fmt: skip
"""What ``clean_up_tokenization_spaces`` rewrites, in transformers' order."""


class Tokenizer:
    """Text to token ids and back.

    Attributes
    ----------
    special_tokens:
        The named special tokens (``bos_token``, …) as chat templates see them.
    eos_token_ids:
        The ids that end a text: the tokenizer's own and those of the generation configuration.
    special_ids:
        The ids that ``skip_special_tokens`` leaves out.
    chat_templates:
        Jinja templates by name; a single one is called ``"default"``.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        special_tokens: Mapping[str, str] | None = None,
        eos_token_ids: Iterable[int] = (),
        chat_templates: Mapping[str, str] | None = None,
        clean_up_spaces: bool = False,
    ) -> None:
        self._backend = backend
        self.special_tokens = dict(special_tokens or {})
        self.chat_templates = dict(chat_templates or {})
        own = self._id_of("eos_token")
        self.eos_token_ids = tuple(sorted({*eos_token_ids, *(() if own is None else (own,))}))
        added = backend.get_added_tokens_decoder()
        self.special_ids = frozenset(i for i, token in added.items() if token.special)
        # For BPE the clean-up would eat spaces that belong to the text; transformers skips it too.
        self._clean_up = clean_up_spaces and type(backend.model).__name__ != "BPE"

    @classmethod
    def load(cls, folder: Path) -> Tokenizer:
        """Read ``tokenizer.json`` and the files beside it.

        Which tokens frame a text (``add_special_tokens``) is what the post-processor in
        ``tokenizer.json`` says; ``add_bos_token`` in ``tokenizer_config.json`` has no say beside
        it, in transformers neither.

        Raises
        ------
        ModelFormatError
            A file is missing or not what it should be.
        """
        folder = Path(folder)
        config = _read_optional(folder / "tokenizer_config.json")
        backend = _read_backend(folder / TOKENIZER_NAME)
        special = _named_tokens(config, _read_optional(folder / "special_tokens_map.json"))
        _add_tokens(backend, config, special)
        return cls(
            backend,
            special_tokens={name: _content(token) for name, token in special.items()},
            eos_token_ids=_read_eos_ids(folder),
            chat_templates=_read_templates(folder, config),
            clean_up_spaces=config.get("clean_up_tokenization_spaces") is True,
        )

    @property
    def vocab_size(self) -> int:
        """Number of tokens, added ones included; the model's own may be padded beyond it."""
        return self._backend.get_vocab_size(with_added_tokens=True)

    @property
    def bos_token_id(self) -> int | None:
        return self._id_of("bos_token")

    @property
    def eos_token_id(self) -> int | None:
        return self._id_of("eos_token")

    @property
    def pad_token_id(self) -> int | None:
        return self._id_of("pad_token")

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids of a text, framed by special tokens where the tokenizer does so."""
        # Of the library's ways to encode, only those for batches let other threads run meanwhile.
        with _explained("this text"):
            (encoding,) = self._backend.encode_batch_fast(
                [text], add_special_tokens=add_special_tokens
            )
        ids: list[int] = encoding.ids
        return ids

    def decode(
        self, ids: Sequence[int], skip_special_tokens: bool = True, *, clean_up: bool = True
    ) -> str:
        """The text of some token ids; ids without a token add nothing."""
        with _explained("these tokens"):
            text: str = self._backend.decode(list(ids), skip_special_tokens=skip_special_tokens)
        if clean_up and self._clean_up:
            for spaced, joined in _SPACED:
                text = text.replace(spaced, joined)
        return text

    def id_to_token(self, token_id: int) -> str | None:
        """The vocabulary's own spelling of a token, or ``None`` beyond the vocabulary."""
        token: str | None = self._backend.id_to_token(token_id)
        return token

    def token_to_id(self, token: str) -> int | None:
        found: int | None = self._backend.token_to_id(token)
        return found

    def chat_template(self, *, tools: bool = False, name: str | None = None) -> str:
        """The chat template to use: by name, else ``tool_use`` for tools, else ``default``.

        Raises
        ------
        RequestError
            The model has no such template.
        """
        for wanted in [name] if name else ["tool_use"] * tools + ["default"]:
            if wanted in self.chat_templates:
                return self.chat_templates[wanted]
        known = ", ".join(map(shorten, sorted(self.chat_templates)))
        raise RequestError(
            f"the model has no chat template {f'named {name!r}' if name else ''}".rstrip()
            + (f"; it has {known}" if known else ""),
            hint="use text completions, or a model with a chat template",
            param="messages",
        )

    def _id_of(self, name: str) -> int | None:
        token = self.special_tokens.get(name)
        return None if token is None else self.token_to_id(token)


def _read_backend(path: Path) -> tokenizers.Tokenizer:
    import tokenizers

    try:
        data = read_regular(path, MAX_JSON_BYTES)
    except FileNotFoundError:
        raise ModelFormatError(f"{path.parent} has no {path.name}", hint=SAVE_TOKENIZER) from None
    except OSError as error:
        raise ModelFormatError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ModelFormatError(f"{path} is {error}") from None
    try:
        with _library():
            if not has_sound_tables(data):
                raise ValueError("a table of its normalizer is cut short")
            backend = tokenizers.Tokenizer.from_buffer(data)
            grows = grows_too_much(backend)
    except _LibraryError as error:
        raise ModelFormatError(
            f"{path} is not a tokenizer: {error}",
            hint="download it again, or upgrade the tokenizers package if the file is newer",
        ) from None
    if grows:
        raise ModelFormatError(f"{path} can make a text longer without bounds")
    # Saved along by training scripts; transformers resets both before each call.
    backend.no_truncation()
    backend.no_padding()
    return backend


class _LibraryError(Exception):
    """What the tokenizers library raised, in one line."""


@contextmanager
def _library() -> Iterator[None]:
    """Its errors have no class of their own, and its panics are not even an Exception."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError):
        raise
    except BaseException as error:  # noqa: BLE001
        text = "".join(c if c.isprintable() else " " for c in str(error))
        raise _LibraryError(" ".join(text.split())[:200]) from None


@contextmanager
def _explained(what: str) -> Iterator[None]:
    try:
        with _library():
            yield
    except _LibraryError as error:
        raise RequestError(
            f"the model's tokenizer fails on {what}: {error}", param="prompt"
        ) from None


def _read_optional(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _named_tokens(config: Mapping[str, Any], legacy: Mapping[str, Any]) -> dict[str, Any]:
    """``bos_token`` and so on, as text or as an AddedToken's fields; the config's come first.

    A model may name tokens of its own, as ``image_token`` or in ``extra_special_tokens``.
    """
    extra = _extra_tokens(config)
    own = {key: text for key, text in config.items()
           if key.endswith("_token") and isinstance(text, str)}  # fmt: skip
    own |= extra if isinstance(extra, dict) else {}
    named: dict[str, Any] = {}
    for name in dict.fromkeys((*SPECIAL_NAMES, *own)):
        token = own.get(name, config.get(name, legacy.get(name)))
        if token is not None:
            _content(token, name)
            named[name] = token
    return named


def _content(token: Any, name: str = "a special token") -> str:
    text = token.get("content") if isinstance(token, dict) else token
    if not isinstance(text, str):
        raise ModelFormatError(
            f"{shorten(name)} of the tokenizer is neither text nor a token: {shorten(token)}"
        )
    return text


def _add_tokens(
    backend: tokenizers.Tokenizer, config: Mapping[str, Any], special: Mapping[str, Any]
) -> None:
    """Add the tokens the configuration declares and ``tokenizer.json`` does not.

    One that ``tokenizer.json`` declares stays as it is there, special or not.
    """
    extra = _extra_tokens(config)
    declared = config.get("added_tokens_decoder")
    listed = sorted(declared.items(), key=_number) if isinstance(declared, dict) else []
    tokens = [_added_token(token, special=False) for _, token in listed]
    unnamed = extra if isinstance(extra, list) else []
    tokens += [_added_token(token, special=True) for token in [*special.values(), *unnamed]]
    known = {token.content for token in backend.get_added_tokens_decoder().values()}
    for token in tokens:
        if token.content not in known:
            known.add(token.content)
            backend.add_tokens([token])


def _extra_tokens(config: Mapping[str, Any]) -> list[Any] | dict[str, Any]:
    extra = config.get("extra_special_tokens") or config.get("additional_special_tokens") or []
    if not isinstance(extra, (list, dict)):
        raise ModelFormatError(
            f"extra_special_tokens of the tokenizer is no list: {shorten(extra)}"
        )
    return extra


def _number(entry: tuple[str, Any]) -> int:
    try:
        return int(entry[0])
    except ValueError:
        raise ModelFormatError(f"added_tokens_decoder has {shorten(entry[0])} for an id") from None


def _added_token(token: Any, *, special: bool) -> tokenizers.AddedToken:
    import tokenizers

    fields = token if isinstance(token, dict) else {}
    flags = {
        name: fields[name]
        for name in ("single_word", "lstrip", "rstrip", "normalized")
        if isinstance(fields.get(name), bool)
    }
    special = special or fields.get("special") is True
    return tokenizers.AddedToken(_content(token), special=special, **flags)


def _read_eos_ids(folder: Path) -> list[int]:
    """``eos_token_id`` of the generation configuration, else of the model's."""
    for name in ("generation_config.json", "config.json"):
        found = _read_optional(folder / name).get("eos_token_id")
        if found is None:
            continue
        ids = found if isinstance(found, list) else [found]
        if any(not isinstance(i, int) or isinstance(i, bool) for i in ids):
            raise ModelFormatError(
                f"{folder / name} has an eos_token_id that is no id: {shorten(found)}"
            )
        return ids
    return []


def _read_templates(folder: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """Chat templates from their own files, else from the tokenizer's configuration."""
    found: dict[str, str] = {}
    if (folder / "chat_template.jinja").is_file():
        found["default"] = _read_text(folder / "chat_template.jinja")
    for path in sorted((folder / "additional_chat_templates").glob("*.jinja")):
        found[path.stem] = _read_text(path)
    if found:
        return found
    declared = config.get("chat_template")
    if declared is None and (folder / "chat_template.json").is_file():
        declared = read_json(folder / "chat_template.json").get("chat_template")
    if declared is None:
        return {}
    if isinstance(declared, str):
        return {"default": declared}
    try:
        named = {entry["name"]: entry["template"] for entry in declared}
    except (KeyError, TypeError):
        named = {None: None}
    if not all(isinstance(part, str) for pair in named.items() for part in pair):
        raise ModelFormatError(f"chat_template in {folder} is neither text nor named texts")
    return named


def _read_text(path: Path) -> str:
    try:
        return read_regular(path, _MAX_TEMPLATE_BYTES).decode("utf-8")
    except OSError as error:
        raise ModelFormatError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise ModelFormatError(f"{path} is not UTF-8 text") from None
    except ValueError as error:
        raise ModelFormatError(f"{path} is {error}") from None

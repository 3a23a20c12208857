"""Text from tokens as they come, and the search for stop strings in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from neuron_artifacts.runtime.tokenizer import Tokenizer

_BROKEN = "\ufffd"
_CONTEXTS = (6, 24, 96)
"""Tokens of the prompt that are decoded along, for the spacing before the first new one; more of
them where the cut falls into a character."""

_PATIENCE = 64
"""Tokens that may wait for the rest of a character; text that stays broken is then let out."""


class Detokenizer:
    """Decodes one sequence token by token.

    A token's text depends on its neighbours (leading spaces, bytes of one character in several
    tokens), so tokens are decoded in a window with the ones before them, and what the earlier
    ones already gave is cut off. Text that ends in a broken character waits for more tokens. The
    pieces put together are what decoding all tokens at once gives; only a run of byte tokens
    that turns out to be invalid UTF-8 may count its replacement characters differently.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        prompt_token_ids: Sequence[int] = (),
        skip_special_tokens: bool = True,
    ) -> None:
        self._tokenizer = tokenizer
        self._skipped = tokenizer.special_ids if skip_special_tokens else frozenset()
        self._window = self._context(prompt_token_ids)
        self._read = len(self._window)
        # A broken character at the prompt's end either stays or is finished by the next token.
        self._known = [self._decode(self._window), self._whole_text(self._window)]

    def push(self, token_id: int) -> str:
        """Add a token; returns the text that is now certain, perhaps empty."""
        if token_id in self._skipped:
            return ""
        self._window.append(token_id)
        text = self._decode(self._window)
        waiting = len(self._window) - self._read
        if waiting < _PATIENCE and (text.endswith(_BROKEN) or not self._fresh(text)):
            return ""
        return self._advance(text)

    def finish(self) -> str:
        """The text still waiting, broken characters included; the sequence has ended."""
        if len(self._window) == self._read:
            return ""
        return self._advance(self._decode(self._window))

    def _context(self, prompt: Sequence[int]) -> list[int]:
        """The last tokens of the prompt, as few as begin with a whole character."""
        window: list[int] = []
        for size in _CONTEXTS:
            window = [i for i in prompt[-size:] if i not in self._skipped]
            if _BROKEN not in self._decode(window):
                break
        return window

    def _whole_text(self, ids: list[int]) -> str:
        """The text of the tokens, without a character that the next ones finish."""
        for end in range(len(ids), max(len(ids) - 4, -1), -1):
            text = self._decode(ids[:end])
            if not text.endswith(_BROKEN):
                return text
        return self._decode(ids)

    def _advance(self, text: str) -> str:
        fresh = self._fresh(text)
        self._window = self._window[self._read :]
        self._read = len(self._window)
        self._known = [self._decode(self._window)]
        return fresh

    def _fresh(self, text: str) -> str:
        """What the window's text has beyond what earlier tokens already gave."""
        known = next((known for known in self._known if text.startswith(known)), self._known[-1])
        return text[len(known) :]

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=False, clean_up=False)


@dataclass(frozen=True)
class StopMatch:
    """Text to let out, and the stop string that was found behind it, if any."""

    text: str
    stop: str | None = None


class StopStrings:
    """Looks for stop strings in text that arrives in pieces.

    Text that could still turn out to be the start of a stop string is held back. The match that
    ends first wins, and among those the one that starts first, so the pieces' borders make no
    difference.
    """

    def __init__(self, stops: Sequence[str], *, include: bool = False) -> None:
        self._stops = tuple(stops)
        self._include = include
        self._held = ""

    def push(self, text: str, *, search: bool = True) -> StopMatch:
        """Add text; ``search=False`` lets stop strings that end in it pass."""
        if not self._stops:
            return StopMatch(text)
        before, self._held = len(self._held), self._held + text
        found = self._find(before) if search and text else None
        if found:
            start, end, stop = found
            return StopMatch(self._held[: end if self._include else start], stop)
        keep = self._undecided()
        ready = self._held[: len(self._held) - keep]
        self._held = self._held[len(ready) :]
        return StopMatch(ready)

    def finish(self) -> str:
        """What was held back; no stop string came of it."""
        held, self._held = self._held, ""
        return held

    def _find(self, before: int) -> tuple[int, int, str] | None:
        """The match that ends first among those that end in text not searched yet."""
        matches = []
        for stop in self._stops:
            start = self._held.find(stop, max(0, before - len(stop) + 1))
            if start >= 0:
                matches.append((start + len(stop), start, stop))
        if not matches:
            return None
        end, start, stop = min(matches)
        return start, end, stop

    def _undecided(self) -> int:
        """Length of the longest end of the text that some stop string starts with."""
        longest = max(map(len, self._stops)) - 1
        for size in range(min(longest, len(self._held)), 0, -1):
            end = self._held[-size:]
            if any(len(stop) > size and stop.startswith(end) for stop in self._stops):
                return size
        return 0

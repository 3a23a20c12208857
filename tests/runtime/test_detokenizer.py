"""Text as it comes: the same however the tokens fall, and stop strings found in it."""

from __future__ import annotations

from functools import lru_cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuron_artifacts.runtime.detokenizer import Detokenizer, StopStrings
from neuron_artifacts.runtime.tokenizer import Tokenizer
from tests.runtime.toy_tokenizers import KINDS

TEXTS = st.text(
    st.sampled_from("Helo wrdthis  ax1 2\n\täöüßñ你好世界😀👩‍👧é�<>▁")
    | st.characters(codec="utf-8"),
    max_size=30,
)
BROKEN = "�"


@lru_cache
def tokenizer(kind: str) -> Tokenizer:
    return Tokenizer(KINDS[kind](), special_tokens={"bos_token": "<s>", "eos_token": "</s>"})


def pieces(detokenizer: Detokenizer, ids: list[int]) -> list[str]:
    return [*(detokenizer.push(token) for token in ids), detokenizer.finish()]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=150, deadline=None)
@given(text=TEXTS)
def test_pieces_of_a_text_make_the_text(kind: str, text: str) -> None:
    ids = tokenizer(kind).encode(text, add_special_tokens=False)
    parts = pieces(Detokenizer(tokenizer(kind)), ids)
    assert "".join(parts) == tokenizer(kind).decode(ids)
    if BROKEN not in text:
        assert BROKEN not in "".join(parts)


@pytest.mark.parametrize("skip", [True, False])
@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_tokens_give_what_decoding_them_at_once_gives(skip: bool, data: st.DataObject) -> None:
    # Bytes in any order: most are no UTF-8. The size includes ids that have no token.
    known = tokenizer("byte-level")
    ids = data.draw(st.lists(st.integers(0, known.vocab_size + 5), max_size=40))
    parts = pieces(Detokenizer(known, skip_special_tokens=skip), ids)
    assert "".join(parts) == known.decode(ids, skip_special_tokens=skip)


@pytest.mark.parametrize("kind", ["byte-level", "metaspace"])
@settings(max_examples=150, deadline=None)
@given(prompt=TEXTS, answer=TEXTS)
def test_an_answer_continues_its_prompt(kind: str, prompt: str, answer: str) -> None:
    known = tokenizer(kind)
    ids = known.encode(prompt + answer, add_special_tokens=False)
    for border in range(1, len(ids)):
        head = known.decode(ids[:border])
        if head.endswith(BROKEN) or not head or BROKEN in prompt + answer:
            continue
        parts = pieces(Detokenizer(known, prompt_token_ids=ids[:border]), ids[border:])
        assert head + "".join(parts) == known.decode(ids)


def test_the_first_word_keeps_its_space_behind_a_prompt() -> None:
    known = tokenizer("metaspace")
    *hello, world = known.encode("Hello world", add_special_tokens=False)
    assert pieces(Detokenizer(known, prompt_token_ids=hello), [world]) == [" world", ""]
    assert pieces(Detokenizer(known), [world]) == ["world", ""]


@pytest.mark.parametrize("kind", ["byte-level", "metaspace"])
def test_a_character_waits_for_its_last_byte(kind: str) -> None:
    known = tokenizer(kind)
    ids = known.encode("ж𐍈", add_special_tokens=False)[-6:]
    assert len(ids) == 6
    detokenizer = Detokenizer(known, prompt_token_ids=known.encode("Hello"))
    assert [detokenizer.push(token) for token in ids] == ["", "ж", "", "", "", "𐍈"]


@pytest.mark.parametrize("kind", ["byte-level", "metaspace"])
@pytest.mark.parametrize("text", ["Hello😁", "Hello жж😁", "𐍈😁"])
def test_a_character_that_began_in_the_prompt_is_finished(kind: str, text: str) -> None:
    known = tokenizer(kind)
    ids = known.encode(text, add_special_tokens=False)
    detokenizer = Detokenizer(known, prompt_token_ids=ids[:-1])
    assert detokenizer.push(ids[-1]) == "😁"


@pytest.mark.parametrize("kind", ["byte-level", "metaspace"])
def test_a_replacement_character_in_the_prompt_is_not_repeated(kind: str) -> None:
    known = tokenizer(kind)
    ids = known.encode(f"is it {BROKEN}a", add_special_tokens=False)
    assert pieces(Detokenizer(known, prompt_token_ids=ids[:-1]), ids[-1:]) == ["a", ""]


@pytest.mark.parametrize("kind", ["byte-level", "metaspace"])
def test_half_a_character_at_the_end_is_shown_broken(kind: str) -> None:
    known = tokenizer(kind)
    ids = known.encode("a😁", add_special_tokens=False)[:-1]
    parts = pieces(Detokenizer(known), ids)
    assert BROKEN not in "".join(parts[:-1])
    assert "".join(parts) == known.decode(ids)


def test_special_tokens() -> None:
    known = tokenizer("byte-level")
    (letter,) = known.encode("a", add_special_tokens=False)
    ids = [letter, known.eos_token_ids[0], 0]
    assert pieces(Detokenizer(known), ids) == ["a", "", "!", ""]
    shown = Detokenizer(known, skip_special_tokens=False)
    assert pieces(shown, ids) == ["a", "</s>", "!", ""]


def test_text_that_stays_broken_is_let_out() -> None:
    known = tokenizer("byte-level")
    (half,) = {known.encode("😁", add_special_tokens=False)[0]}
    detokenizer = Detokenizer(known)
    parts = [detokenizer.push(half) for _ in range(200)]
    assert any(parts)
    assert len("".join(parts)) + len(detokenizer.finish()) == 200


def search_slowly(text: str, stops: list[str]) -> tuple[int, int, str] | None:
    """The match that ends first, then the one that starts first."""
    for end in range(1, len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            longest = max(found, key=len)
            return end - len(longest), end, longest
    return None


@settings(max_examples=500, deadline=None)
@given(
    text=st.text("ab", max_size=24),
    stops=st.lists(st.text("ab", min_size=1, max_size=5), min_size=1, max_size=3),
    include=st.booleans(),
    data=st.data(),
)
def test_stops_wherever_the_borders_fall(
    text: str, stops: list[str], include: bool, data: st.DataObject
) -> None:
    borders = data.draw(st.lists(st.integers(0, len(text)), max_size=8).map(sorted))
    search = StopStrings(stops, include=include)
    out, stopped = "", None
    for start, end in zip([0, *borders], [*borders, len(text)], strict=True):
        match = search.push(text[start:end])
        out += match.text
        if match.stop is not None:
            stopped = match.stop
            break
    else:
        out += search.finish()
    found = search_slowly(text, stops)
    if found is None:
        assert (out, stopped) == (text, None)
    else:
        start, end, stop = found
        assert (out, stopped) == (text[: end if include else start], stop)


@pytest.mark.parametrize(
    ("stops", "parts", "expected"),
    [
        ([], ["a", "b"], ["a", "b"]),
        (["STOP"], ["aS", "T", "x"], ["a", "", "STx"]),
        (["STOP"], ["STO", "STOX"], ["", "STOSTOX"]),
        (["\n\n"], ["a\n", "b\n", "c"], ["a", "\nb", "\nc"]),
        (["<|end|>", "<end>"], ["x<", "|", "e", "x"], ["x", "", "", "<|ex"]),
    ],
)
def test_only_what_may_be_a_stop_string_is_held_back(
    stops: list[str], parts: list[str], expected: list[str]
) -> None:
    search = StopStrings(stops)
    assert [search.push(part).text for part in parts] == expected


def test_stop_strings_may_be_let_pass() -> None:
    search = StopStrings(["ab"])
    assert search.push("xab", search=False).text == "xab"
    assert search.push("a", search=False).text == ""
    found = search.push("b!")
    assert (found.text, found.stop) == ("", "ab")
    assert StopStrings(["ab", "wxyz"]).push("xab", search=False).text == "xab"

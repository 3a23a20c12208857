"""Messages come out of a pipe as they went in, however the bytes are cut."""

from __future__ import annotations

import json
import os
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron_artifacts.worker import messages
from neuron_artifacts.worker.messages import BrokenMessageError, Message, MessageReader

ANSWERS = st.lists(st.tuples(st.dictionaries(st.text(), st.integers()), st.binary(max_size=300)))


def encode(message: Message) -> bytes:
    fields = {"event": message.event, **message.fields, "bytes": len(message.data)}
    return json.dumps(fields).encode() + b"\n" + message.data


@given(ANSWERS, st.integers(1, 64))
def test_any_cut_gives_the_same_messages(
    answers: list[tuple[dict[str, int], bytes]], size: int
) -> None:
    sent = [Message("answer", {"payload": payload}, data) for payload, data in answers]
    stream = b"".join(map(encode, sent))
    out, into = os.pipe()

    def write() -> None:
        for start in range(0, len(stream), size):
            os.write(into, stream[start : start + size])
        os.close(into)

    writer = threading.Thread(target=write)
    writer.start()
    reader, received = MessageReader(out), []
    while (message := reader.read(60.0)) is not None:
        received.append(message)
    writer.join()
    os.close(out)
    assert received == sent


def test_a_late_half_is_waited_for() -> None:
    out, into = os.pipe()
    reader = MessageReader(out)
    whole = encode(Message("answer", {"payload": {}}, b"abcdef"))
    os.write(into, whole[:-3])
    with pytest.raises(TimeoutError):
        reader.read(0.0)
    os.write(into, whole[-3:])
    assert reader.read(60.0) == Message("answer", {"payload": {}}, b"abcdef")
    os.close(into)
    assert reader.read(60.0) is None
    os.close(out)


def test_an_endless_line_is_not_collected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "LINE_LIMIT", 1000)
    out, into = os.pipe()
    os.write(into, b"x" * 2000)
    with pytest.raises(BrokenMessageError, match="beyond 1000 bytes"):
        MessageReader(out).read(60.0)
    os.close(into)
    os.close(out)


@pytest.mark.parametrize(
    "line",
    [
        b"", b"null", b"7", b'"phase"', b"{}", b'{"event": 7}', b'{"event": ["phase"]}',
        b'{"event": "phase"}', b'{"event": "phase", "name": 7}', b'{"event": "result"}',
        b'{"event": "result", "result": []}', b'{"event": "answer", "payload": {}, "bytes": -1}',
        b'{"event": "answer", "payload": {}, "bytes": "3"}',
        b'{"event": "answer", "payload": {}, "bytes": 99999999999}', b"\xff", b"[" * 100_000,
    ],
)  # fmt: skip
def test_what_is_no_message(line: bytes) -> None:
    with pytest.raises(BrokenMessageError, match="no message"):
        messages.parse_message(line)

from __future__ import annotations

import pytest

from neuron_artifacts.errors import SpecError
from neuron_artifacts.neuron_config import check_buckets, default_buckets, generate_buckets


@pytest.mark.parametrize(
    ("low", "high", "buckets"),
    [
        (128, 128, (128,)),
        (128, 64, (64,)),
        (128, 129, (129,)),
        (128, 180, (180,)),
        (128, 182, (128, 182)),
        (128, 256, (128, 256)),
        (128, 4096, (128, 256, 512, 1024, 2048, 4096)),
        (128, 5000, (128, 256, 512, 1024, 2048, 5000)),
        (128, 6000, (128, 256, 512, 1024, 2048, 4096, 6000)),
        (512, 2048, (512, 1024, 2048)),
    ],
)
def test_generated_buckets_follow_nxdi(low: int, high: int, buckets: tuple[int, ...]) -> None:
    assert generate_buckets(low, high) == buckets


def test_without_bucketing_there_is_one() -> None:
    assert default_buckets(4096, enabled=False) == (4096,)
    assert default_buckets(300, enabled=True) == (128, 300)


@pytest.mark.parametrize(
    ("buckets", "message"),
    [
        ((), "must hold positive lengths"),
        ((0, 4), "must hold positive lengths"),
        ((8, 4), "must ascend"),
        ((4, 4), "must ascend"),
        ((4, 65), "ends at 65, beyond seq_len 64"),
    ],
)
def test_bad_buckets_are_refused(buckets: tuple[int, ...], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        check_buckets("token_generation_buckets", buckets, 64, "seq_len")


def test_the_hint_sorts_the_list() -> None:
    with pytest.raises(SpecError) as caught:
        check_buckets("context_encoding_buckets", (128, 32, 32), 128, "max_context_length")
    assert caught.value.hint == "write 32,128"

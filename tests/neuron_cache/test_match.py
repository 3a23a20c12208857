"""Which cached configurations answer a request, as a table."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from neuron_artifacts.neuron_cache.match import CacheRequest, Subject
from neuron_artifacts.neuron_cache.outcome import Judgement, judge, merge_rows
from neuron_artifacts.neuron_cache.registry import Entry, parse_entry, parse_path
from tests.neuron_cache.caches import Cache
from tests.neuron_cache.model_configs import BERT, CLASSIFIER, LLAMA, PIPELINE, XL_UNET

Shape = dict[str, Any]


def entries(cache: Cache) -> list[Entry]:
    """Each entry once, as a lookup reads them."""
    found: dict[tuple[str, str], Entry] = {}
    for path, data in cache.files.items():
        at = parse_path(path)
        if at:
            found.setdefault((at.release, at.name), parse_entry(at, data))
    return list(found.values())


def decoders(*shapes: Shape, release: str = "0.4.5", model_id: str = "org/llama") -> list[Entry]:
    cache = Cache()
    for shape in shapes:
        cache.add(release, "llama", model_id, **shape)
    return entries(cache)


def s(batch: int, length: int, tp: int = 8, **more: Any) -> Shape:
    return {"batch_size": batch, "sequence_length": length, "tp_degree": tp, **more}


def brief(near: Any) -> tuple[int, int, int] | None:
    return near and tuple(near.row.shape[n] for n in ("batch_size", "sequence_length", "tp_degree"))


def ask(*cached: Shape, **request: Any) -> Judgement:
    return judge(CacheRequest(**request), Subject(LLAMA), decoders(*cached))


HITS: list[tuple[Shape, Shape]] = [
    (s(1, 4096), {}),
    (s(1, 4096), {"batch_size": 1, "sequence_length": 4096, "tp_degree": 8}),
    (s(1, 4096), {"target": "inf2"}),
    (s(1, 4096), {"target": "trn1n"}),
    (s(1, 4096), {"target": "trn1.32xlarge"}),
    (s(1, 4096, target="trn2"), {"target": "trn2"}),
    (s(1, 4096, torch_dtype="float16"), {"dtype": "float16"}),
    (s(1, 4096, torch_dtype="float16"), {"dtype": "fp16"}),
    (s(1, 4096), {"dtype": "bf16"}),
    (s(1, 4096), {"dtype": "auto"}),
    (s(4, 4096), {"continuous_batching": True}),
    (s(1, 4096), {"continuous_batching": False}),
    (s(1, 4096), {"speculation_length": 0}),
    (s(1, 4096, speculation_length=5), {"speculation_length": 5}),
    (s(1, 4096), {"other": {"fused_qkv": True, "max_context_length": 4096}}),
]


@pytest.mark.parametrize(("cached", "request_"), HITS)
def test_hits(cached: Shape, request_: Shape) -> None:
    found = ask(cached, **request_)
    assert (found.status, len(found.rows)) == ("hit", 1)


NEAR: list[tuple[Shape, list[Shape], Any, Any, list[str]]] = [
    # asked, cached, the smallest sufficient, the closest below, fields that differ in the first
    (s(4, 4096), [s(8, 4096), s(16, 4096), s(1, 4096)], (8, 4096, 8), (1, 4096, 8), ["batch_size"]),
    (s(1, 4096), [s(1, 8192), s(1, 32768)], (1, 8192, 8), None, ["sequence_length"]),
    (s(4, 4096), [s(8, 8192), s(4, 32768)], (8, 8192, 8), None, ["batch_size", "sequence_length"]),
    (s(4, 4096), [s(8, 4096), s(4, 8192)], (4, 8192, 8), None, ["sequence_length"]),
    (s(8, 4096), [s(4, 4096), s(1, 4096)], None, (4, 4096, 8), ["batch_size"]),
    (s(8, 4096), [s(8, 1024), s(4, 4096)], None, (4, 4096, 8), ["batch_size"]),
    (s(8, 4096), [s(16, 2048), s(2, 4096)], None, (16, 2048, 8), ["batch_size", "sequence_length"]),
    (s(1, 4096, 2), [s(1, 4096, 8)], None, (1, 4096, 8), ["tp_degree"]),
    (s(8, 4096, 8), [s(1, 4096, 8), s(8, 4096, 24)], None, (1, 4096, 8), ["batch_size"]),
]


@pytest.mark.parametrize(("asked", "cached", "sufficient", "below", "fields"), NEAR)
def test_the_nearest(
    asked: Shape, cached: list[Shape], sufficient: Any, below: Any, fields: list[str]
) -> None:
    found = ask(*cached, **asked)
    assert (found.status, found.rows) == ("near", ())
    assert brief(found.nearest.sufficient) == sufficient
    assert brief(found.nearest.below) == below
    first = found.nearest.sufficient or found.nearest.below
    assert first
    assert [difference.field for difference in first.differences] == fields
    for difference in first.differences:
        assert difference.asked == asked[difference.field]
        assert difference.cached == first.row.shape[difference.field]


NOT_HITS: list[tuple[Shape, Shape, str]] = [
    (s(1, 4096), {"dtype": "float16"}, "dtype"),
    (s(1, 4096, speculation_length=5), {"speculation_length": 0}, "speculation_length"),
    (s(4, 4096), {"continuous_batching": False}, "continuous_batching"),
    (s(1, 4096), {"other": {"prefill_chunk_size": 512}}, "prefill_chunk_size"),
]


@pytest.mark.parametrize(("cached", "request_", "field"), NOT_HITS)
def test_another_kind_of_graph_is_no_hit(cached: Shape, request_: Shape, field: str) -> None:
    found = ask(cached, **request_)
    assert found.status == "near"
    assert found.nearest.sufficient is None
    assert found.nearest.below
    assert [d.field for d in found.nearest.below.differences] == [field]


def test_other_targets_come_last_and_in_order() -> None:
    two: Shape = {"target": "trn2"}
    found = ask(s(1, 2048, **two), s(8, 4096, **two), s(4, 4096, **two), s(1, 4096),
                target="inf2", batch_size=4, sequence_length=4096)  # fmt: skip
    assert found.status == "near"
    assert brief(found.nearest.below) == (1, 4096, 8)
    order = [brief(near) for near in found.nearest.other_target]
    assert order == [(4, 4096, 8), (8, 4096, 8), (1, 2048, 8)]
    fields = [[d.field for d in near.differences] for near in found.nearest.other_target]
    assert fields[0] == ["target"]
    assert fields[1] == ["target", "batch_size"]


def test_other_releases_answer_where_the_usable_one_has_nothing() -> None:
    other = decoders(s(4, 4096), s(1, 4096), release="0.4.4")
    found = judge(CacheRequest(batch_size=4), Subject(LLAMA), [], other)
    assert found.status == "other-release"
    [near] = found.nearest.other_release
    assert (near.row.release, near.differences) == ("0.4.4", ())
    found = judge(CacheRequest(batch_size=8), Subject(LLAMA), [], other)
    assert [brief(n) for n in found.nearest.other_release] == [(4, 4096, 8), (1, 4096, 8)]
    found = judge(CacheRequest(batch_size=4), Subject(LLAMA), decoders(s(1, 4096)), other)
    assert found.status == "near"
    assert len(found.nearest.other_release) == 1
    assert judge(CacheRequest(), Subject(LLAMA), [], []).status == "miss"


def test_one_row_for_each_shape() -> None:
    cache = Cache()
    for name in ("org/llama", "org/tuned"):
        cache.add("0.4.5", "llama", name, **s(1, 4096), checkpoint_revision=name[-1] * 40)
    cache.add("0.4.5", "llama", "org/llama", **s(1, 4096), on_device_sampling=False)
    cache.add("0.4.5", "llama", "org/llama", **s(1, 4096), speculation_length=3)
    for images in (1, 4):
        cache.add("0.4.6.dev4", "llama", "org/llama", **s(1, 4096), max_num_images=images)
    assert len(merge_rows(entries(cache))) == 4
    plain, speculative = sorted(
        (row for row in merge_rows(entries(cache)) if row.release == "0.4.5"),
        key=lambda row: row.shape["speculation_length"],
    )
    assert set(plain.model_ids) == {"org/llama", "org/tuned"}
    assert {"a" * 40, "d" * 40} <= set(plain.revisions)
    assert speculative.model_ids == ("org/llama",)


def test_tasks() -> None:
    cache = Cache()
    cache.add("0.4.5", "llama", "org/llama", task="feature-extraction")
    embeds = entries(cache)
    cache.add("0.4.5", "llama", "org/llama", batch_size=2)
    both = entries(cache)

    def status(subject: Subject, cached: list[Entry]) -> str:
        return judge(CacheRequest(), subject, cached).status

    assert status(Subject(LLAMA), embeds) == "miss"
    assert status(Subject(LLAMA, task="feature-extraction"), embeds) == "hit"
    for alias in ("embed", "sentence-similarity", "feature-extraction-with-past"):
        assert status(Subject(LLAMA, task=alias), embeds) == "hit"
    assert status(Subject(LLAMA, task="text-generation"), embeds) == "miss"
    assert status(Subject(LLAMA, pipeline_tag="feature-extraction"), embeds) == "hit"
    assert status(Subject(LLAMA, pipeline_tag="sentence-similarity"), embeds) == "hit"
    for alias in ("causal-lm-with-past", "generate"):
        [row] = judge(CacheRequest(), Subject(LLAMA, task=alias), both).rows
        assert row.task == "text-generation"
    untold = [replace(entry, task=None) for entry in embeds]
    assert status(Subject(LLAMA), untold) == "hit"
    assert status(Subject(LLAMA, task="feature-extraction"), untold) == "hit"
    [row] = judge(CacheRequest(), Subject(LLAMA), both).rows
    assert (row.task, row.shape["batch_size"]) == ("text-generation", 2)


def test_an_encoder_is_found_whatever_it_was_exported_for_unless_a_task_is_asked() -> None:
    cache = Cache()
    cache.add_traced("0.4.5", "bert", "org/bert", "feature-extraction", static_sequence_length=128)
    cached = entries(cache)
    assert judge(CacheRequest(), Subject(BERT), cached).status == "hit"
    assert judge(CacheRequest(), Subject(BERT, task="fill-mask"), cached).status == "miss"


def test_traced_models_by_their_own_names() -> None:
    cache = Cache()
    for batch, length in ((1, 128), (4, 512)):
        cache.add_traced("0.4.5", "classifier", "org/classifier", "text-classification",
                         static_batch_size=batch, static_sequence_length=length)  # fmt: skip
    subject = Subject(CLASSIFIER, "org/classifier")
    found = judge(CacheRequest(batch_size=1, sequence_length=128), subject, entries(cache))
    assert found.status == "hit"
    document = found.rows[0].document()
    assert document["static_batch_size"] == 1
    assert document["static_sequence_length"] == 128
    assert document["instance_type"] == "trn1"
    assert "batch_size" not in document
    found = judge(CacheRequest(batch_size=2, sequence_length=128), subject, entries(cache))
    assert found.nearest.sufficient
    assert [d.field for d in found.nearest.sufficient.differences] == [
        "static_batch_size", "static_sequence_length",
    ]  # fmt: skip


def test_a_dynamic_batch_suffices() -> None:
    cache = Cache()
    cache.add_traced("0.4.5", "bert", "org/bert", "fill-mask", dynamic_batch_size=True,
                     static_sequence_length=128)  # fmt: skip
    found = judge(CacheRequest(batch_size=8), Subject(BERT), entries(cache))
    assert (found.status, bool(found.nearest.sufficient)) == ("near", True)


def test_weights_inside_the_graphs_belong_to_one_checkpoint() -> None:
    cache = Cache()
    cache.add_traced("0.4.5", "bert", "org/bert", "fill-mask", inline_weights_to_neff=True)
    assert judge(CacheRequest(), Subject(BERT, "org/bert"), entries(cache)).status == "hit"
    assert judge(CacheRequest(), Subject(BERT, "org/other"), entries(cache)).status == "miss"


def test_pipelines() -> None:
    cache = Cache()
    cache.add_pipeline("0.4.5", "org/sd")
    cached = entries(cache)
    subject = Subject(PIPELINE, "org/sd-tuned")
    assert judge(CacheRequest(other={"height": 512, "width": 512}), subject, cached).status == "hit"
    found = judge(CacheRequest(other={"height": 768}), subject, cached)
    assert found.nearest.below
    assert [d.field for d in found.nearest.below.differences] == ["static_height"]
    xl = Subject({**PIPELINE, "unet": XL_UNET})
    assert judge(CacheRequest(), xl, cached).status == "miss"


def test_training_never_answers() -> None:
    cache = Cache()
    cache.add("0.0.28", "llama", "org/llama", mode="training", precision="bfloat16")
    assert judge(CacheRequest(), Subject(LLAMA), entries(cache)).status == "miss"

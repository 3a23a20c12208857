"""Lookups over HTTP: every release's layout, what the official tool gets wrong, and how often."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from neuron_artifacts.errors import HubError, ModelNotFoundError
from neuron_artifacts.neuron_cache import (
    PUBLIC_REPOSITORY,
    CacheRequest,
    Hub,
    SourceOutcome,
    default_repositories,
    list_entries,
    look_up,
)
from neuron_artifacts.neuron_cache.match import Subject
from neuron_artifacts.neuron_cache.outcome import Row, judge
from neuron_artifacts.neuron_cache.registry import parse_entry, parse_path
from tests.neuron_cache.cache_hub import CacheHub
from tests.neuron_cache.caches import RELEASES, REPO, Cache
from tests.neuron_cache.model_configs import (
    BERT,
    CLASSIFIER,
    GEMMA3,
    LLAMA,
    MIXTRAL,
    MODERN,
    PIPELINE,
    QWEN2,
    QWEN3,
    SMALL,
    TUNED,
    XL_UNET,
)

Connect = Callable[[], Hub]
RELEASE = "0.4.5"
COMPILER = RELEASES[RELEASE][0]


@pytest.fixture
def ask(hub: CacheHub, connect: Connect) -> Callable[..., SourceOutcome]:
    """Look up in one cache, published as it is at the time of asking."""

    def look(cache: Cache, config: dict[str, Any], **options: Any) -> SourceOutcome:
        published = hub.repositories.get(REPO)
        if not published or published.commits[published.refs["main"]] != cache.files:
            hub.commit(REPO, cache.files)
        named = {n: options.pop(n) for n in _OPTIONS if n in options}
        [outcome] = look_up(config, CacheRequest(**options), repos=[REPO], hub=connect(), **named)
        return outcome

    return look


_OPTIONS = ("release", "compiler", "task", "model_id", "pipeline_tag", "prove")
Ask = Callable[..., SourceOutcome]


def full_cache() -> Cache:
    """Several models over all releases, as years of filling leave a repository."""
    cache = Cache()
    for release in RELEASES:
        models = ["small"] if RELEASES[release][1] == "4.36.2" else ["llama", "small", "qwen2"]
        for model in models:
            for batch in (1, 4, 8):
                cache.add(release, model, f"org/{model}", batch_size=batch)
    return cache


@pytest.mark.parametrize("release", RELEASES)
def test_every_release_is_read(ask: Ask, release: str) -> None:
    config = SMALL if RELEASES[release][1] == "4.36.2" else LLAMA
    found = ask(full_cache(), config, release=release, batch_size=4, tp_degree=8, target="inf2")
    assert (found.status, found.release) == ("hit", release)
    assert RELEASES[release][0] in found.compilers
    [row] = found.rows
    assert row.shape["batch_size"] == 4
    assert (row.release, row.compiler) == (release, RELEASES[release][0])
    assert not found.skipped


def test_the_newest_release_counts_unless_told(ask: Ask) -> None:
    found = ask(full_cache(), LLAMA)
    assert (found.release, found.compilers) == ("0.4.5", (COMPILER,))
    assert [row.shape["batch_size"] for row in found.rows] == [1, 4, 8]
    assert ask(full_cache(), LLAMA, compiler="2.21.18209").release == "0.4.1"
    assert ask(full_cache(), LLAMA, compiler="neuronxcc-2.12").status == "miss"


def test_a_development_folder_counts_only_alone(ask: Ask) -> None:
    cache = Cache()
    cache.add("0.4.6.dev4", "llama", "org/llama")
    assert ask(cache, LLAMA).status == "hit"
    cache.add("0.2.0", "small", "org/small")
    found = ask(cache, LLAMA)
    assert (found.release, found.status) == ("0.2.0", "miss")
    found = ask(cache, LLAMA, release="0.4.6.dev4")
    assert found.status == "hit"


def test_another_release_of_the_same_compiler_is_told(ask: Ask) -> None:
    cache = Cache()
    cache.add("0.4.5", "small", "org/small")
    cache.add("0.4.4", "llama", "org/llama", batch_size=4)
    cache.add("0.4.6.dev4", "llama", "org/llama", batch_size=4)
    cache.add("0.4.1", "llama", "org/llama", batch_size=4)
    found = ask(cache, LLAMA, batch_size=4)
    assert found.status == "other-release"
    assert [near.row.release for near in found.nearest.other_release] == ["0.4.6.dev4", "0.4.4"]
    assert ask(cache, LLAMA, batch_size=4, release="0.4.2").status == "other-release"
    assert ask(cache, QWEN2).status == "miss"


def test_two_builds_of_one_compiler(ask: Ask) -> None:
    cache = Cache()
    cache.add("0.4.5", "llama", "org/llama", batch_size=2)
    first = dict(cache.files)
    cache.files = {n.replace("82129205", "99999999"): d for n, d in first.items()} | first
    cache.add("0.4.5", "llama", "org/llama", batch_size=4)
    found = ask(cache, LLAMA)
    assert len(found.compilers) == 2
    assert [row.shape["batch_size"] for row in found.rows] == [2, 2, 4]


# --- what the official tool cannot find ---------------------------------------------------------


@pytest.mark.parametrize("target", ["inf2", "trn1n", "trn1"])
def test_instance_families_share_a_target(ask: Ask, target: str) -> None:
    cache = Cache()
    cache.add(RELEASE, "llama", "org/llama")
    assert ask(cache, LLAMA, target=target).status == "hit"
    assert ask(cache, LLAMA, target="trn2").status == "near"


def test_mixtral_whose_head_dim_an_export_fills_in(ask: Ask) -> None:
    cache = Cache()
    path = cache.add(RELEASE, "mixtral", "mistralai/mixtral", continuous_batching=False)
    assert json.loads(cache.files[path])["head_dim"] == 128
    assert "head_dim" not in MIXTRAL
    assert ask(cache, MIXTRAL, model_id="mistralai/mixtral").status == "hit"
    assert ask(cache, {**MIXTRAL, "head_dim": None}).status == "hit"


def test_an_export_in_another_dtype_than_the_checkpoint(ask: Ask) -> None:
    cache = Cache()
    cache.add(RELEASE, "llama", "org/llama")
    cache.add(RELEASE, "llama", "org/llama", torch_dtype="float16")
    assert len({path.split("/")[3] for path in cache.files if "0_REGISTRY" in path}) == 3
    assert ask(cache, LLAMA, dtype="float16").status == "hit"
    assert {row.shape["dtype"] for row in ask(cache, LLAMA).rows} == {"bfloat16", "float16"}


@pytest.mark.parametrize("config", [TUNED, MODERN], ids=["another release", "transformers 5"])
def test_a_fine_tune_that_was_never_exported(ask: Ask, config: dict[str, Any]) -> None:
    cache = Cache()
    cache.add(RELEASE, "llama", "org/llama", batch_size=4)
    cache.add(RELEASE, "small", "org/small", batch_size=2)
    found = ask(cache, config, model_id="me/my-tune")
    assert [row.shape["batch_size"] for row in found.rows] == [4]
    assert found.rows[0].model_ids == ("org/llama",)


def test_an_alias_lists_only_the_first_entry_of_a_model(ask: Ask) -> None:
    cache = Cache()
    for batch in (1, 2, 4):
        cache.add(RELEASE, "llama", "org/llama", batch_size=batch)
    assert sum("/org/llama/" in path for path in cache.files) == 1
    assert len(ask(cache, LLAMA, model_id="org/llama").rows) == 3


def test_the_text_model_inside_a_larger_one(ask: Ask) -> None:
    cache = Cache()
    cache.add(RELEASE, "gemma3_text", "google/gemma")
    assert ask(cache, GEMMA3, task="text-generation").status == "hit"


def test_traced_entries(ask: Ask) -> None:
    cache = Cache()
    path = cache.add_traced(RELEASE, "classifier", "org/classifier", "text-classification",
                            static_sequence_length=128)  # fmt: skip
    found = ask(cache, CLASSIFIER, sequence_length=128, prove=True)
    assert found.status == "hit"
    assert found.rows[0].proved is True
    name = path.rpartition("/")[2].removesuffix(".json")
    assert found.rows[0].module == f"MODULE_{name}"
    del cache.files[f"neuronxcc-{COMPILER}/MODULE_{name}/model.neuron"]
    assert ask(cache, CLASSIFIER, prove=True).rows[0].proved is False
    assert ask(cache, CLASSIFIER).rows[0].proved is None
    assert ask(cache, BERT, task="text-classification").status == "miss"


def test_pipelines_of_several_architectures_lie_below_one_digest(ask: Ask) -> None:
    cache = Cache()
    sd = cache.add_pipeline(RELEASE, "org/sd")
    xl = cache.add_pipeline(RELEASE, "org/xl", XL_UNET, static_height=1024, static_width=1024)
    assert Path(sd).parent == Path(xl).parent
    for unet, height in ((PIPELINE["unet"], 512), (XL_UNET, 1024)):
        [row] = ask(cache, {**PIPELINE, "unet": unet}).rows
        assert row.shape["static_height"] == height


# --- damage and strangers -----------------------------------------------------------------------


def test_damaged_and_foreign_files_are_named_and_skipped(ask: Ask) -> None:
    cache = Cache()
    good = cache.add(RELEASE, "llama", "org/llama", batch_size=4)
    folder = good.rpartition("/")[0]
    cut = f"{folder}/{'0' * 20}.json"
    cache.files[cut] = cache.files[good][:200]
    foreign = f"{cache.registry(RELEASE)}/llama/org/llama/{'1' * 20}.json"
    cache.files[foreign] = b'{"hello": "world"}'
    stray = f"{cache.registry(RELEASE)}/notes.json"
    cache.files[stray] = b"{}"
    big = f"{cache.registry(RELEASE)}/llama/org/llama/{'2' * 20}.json"
    cache.files[big] = b" " * (2 << 20)
    cache.files[f"{folder}/model.lock"] = b""
    found = ask(cache, LLAMA)
    assert found.status == "hit"
    reasons = {skipped.path: skipped.reason for skipped in found.skipped}
    assert reasons.keys() == {cut, foreign, stray, big}
    assert "no Neuron configuration" in reasons[foreign]


def test_a_stray_entry_does_not_speak_for_its_folder(ask: Ask) -> None:
    cache, other = Cache(), Cache()
    for batch in (1, 4):
        good = cache.add(RELEASE, "llama", "org/llama", batch_size=batch)
    folder = good.rpartition("/")[0]
    for number, model in enumerate(("small", "qwen2")):
        stray = other.add(RELEASE, model, f"org/{model}", batch_size=2)
        cache.files[f"{folder}/{number:020}.json"] = other.files[stray]
    for model_id in ("me/tune", "org/llama"):
        found = ask(cache, LLAMA, model_id=model_id)
        assert [row.shape["batch_size"] for row in found.rows] == [1, 4]
    assert [row.shape["batch_size"] for row in ask(cache, SMALL).rows] == [2]


def test_an_alias_stands_in_for_a_damaged_entry(ask: Ask) -> None:
    cache = Cache()
    good = cache.add(RELEASE, "llama", "org/llama")
    cache.files[good] = cache.files[good][:100]
    found = ask(cache, LLAMA)
    assert (found.status, [s.path for s in found.skipped]) == ("hit", [good])


def test_a_repository_without_registry(ask: Ask) -> None:
    cache = Cache()
    found = ask(cache, LLAMA)
    assert (found.status, found.release, found.compilers) == ("miss", None, ())
    cache.files["neuronxcc-2.12.54.0+f631c2365/MODULE_1+d41d8cd9/model.neff"] = b"neff"
    assert ask(cache, LLAMA).status == "miss"
    assert ask(cache, LLAMA, release="0.4.5").status == "miss"


# --- tasks --------------------------------------------------------------------------------------


def test_the_hub_is_asked_for_the_task_only_where_entries_leave_it_open(
    ask: Ask, hub: CacheHub
) -> None:
    cache = Cache()
    cache.add(RELEASE, "qwen3", "org/embed", task="feature-extraction")
    hub.commit("org/embed", {"config.json": b"{}"})
    assert ask(cache, QWEN3, model_id="org/embed").status == "miss"
    hub.tags["org/embed"] = "feature-extraction"
    assert ask(cache, QWEN3, model_id="org/embed").status == "hit"
    hub.requests.clear()
    assert ask(cache, QWEN3, model_id="org/embed", task="feature-extraction").status == "hit"
    assert not hub.asked("GET", "/api/models/org/embed")


# --- reading only what may match loses nothing ---------------------------------------------------


def crowded_cache() -> Cache:
    """Several hundred entries over all layouts, with exports in two number formats."""
    cache = full_cache()
    for release in ("0.2.0", "0.4.4", "0.4.5", "0.4.6.dev4"):
        for model, dtype in product(("llama", "small", "mixtral", "phi3"), ("float16", "bfloat16")):
            for batch, tp in product((1, 2, 16), (2, 8, 24)):
                cache.add(release, model, f"org/{model}-{dtype}", batch_size=batch, tp_degree=tp,
                          torch_dtype=dtype)  # fmt: skip
        for length in (128, 384):
            cache.add_traced(release, "bert", "org/bert", "fill-mask",
                             static_sequence_length=length)  # fmt: skip
            cache.add_traced(release, "classifier", "org/classifier", "text-classification",
                             static_sequence_length=length)  # fmt: skip
        cache.add_pipeline(release, "org/sd")
        cache.add_pipeline(release, "org/xl", XL_UNET)
    return cache


ASKED = {"llama": LLAMA, "tuned": TUNED, "small": SMALL, "mixtral": MIXTRAL, "qwen2": QWEN2,
         "qwen3": QWEN3, "bert": BERT, "classifier": CLASSIFIER, "pipeline": PIPELINE}  # fmt: skip


@pytest.mark.parametrize("name", ASKED)
def test_a_lookup_finds_what_reading_everything_finds(ask: Ask, name: str) -> None:
    cache = crowded_cache()
    assert len(cache.files) > 300
    everything = [
        parse_entry(at, data) for path, data in cache.files.items()
        if (at := parse_path(path)) and at.compiler == COMPILER
    ]  # fmt: skip
    for request in (CacheRequest(), CacheRequest(batch_size=3), CacheRequest(batch_size=16)):
        expected = judge(
            request, Subject(ASKED[name]),
            [entry for entry in everything if entry.at.release == RELEASE],
            [entry for entry in everything if entry.at.release != RELEASE],
        )  # fmt: skip
        found = ask(cache, ASKED[name], batch_size=request.batch_size)
        assert found.status == expected.status
        assert _shapes(found.rows) == _shapes(expected.rows)
        for kind in ("other_target", "other_release"):
            near, wanted = (getattr(side.nearest, kind) for side in (found, expected))
            assert _shapes(n.row for n in near) == _shapes(n.row for n in wanted)
        for kind in ("sufficient", "below"):
            one, other = (getattr(side.nearest, kind) for side in (found, expected))
            assert (one and one.row.shape) == (other and other.row.shape)


def _shapes(rows: Iterable[Row]) -> list[Any]:
    return [(row.shape, row.release, set(row.model_ids)) for row in rows]


# --- requests -----------------------------------------------------------------------------------


def twenty_nine(cache: Cache) -> None:
    """The benchmark's registry: 29 entries of one model beside those of others."""
    for batch in (1, 4, 8, 16, 32, 48, 64):
        for length in (1024, 2048, 4096, 8192):
            cache.add(RELEASE, "llama", "org/llama", batch_size=batch, sequence_length=length)
    cache.add(RELEASE, "llama", "org/llama", tp_degree=24)
    for model in ("qwen2", "qwen3", "mixtral", "phi3"):
        for batch in (1, 4, 8):
            cache.add(RELEASE, model, f"org/{model}", batch_size=batch)


def test_a_lookup_asks_once_for_each_entry_and_three_times_besides(ask: Ask, hub: CacheHub) -> None:
    cache = Cache()
    twenty_nine(cache)
    assert len(ask(cache, LLAMA, model_id="org/llama").rows) == 29
    assert len(hub.requests) == 3 + 29


def test_a_second_lookup_asks_only_for_the_commit(ask: Ask, hub: CacheHub) -> None:
    cache = Cache()
    twenty_nine(cache)
    first = ask(cache, LLAMA)
    hub.requests.clear()
    second = ask(cache, LLAMA)
    assert second.rows == first.rows
    assert [r.path for r in hub.requests] == [f"/api/models/{REPO}/revision/main"]
    assert second.requests == 1


def test_a_new_commit_costs_its_listings_and_new_entries_only(ask: Ask, hub: CacheHub) -> None:
    cache = Cache()
    twenty_nine(cache)
    ask(cache, LLAMA)
    cache.add(RELEASE, "llama", "org/llama", tp_degree=2)
    hub.requests.clear()
    assert len(ask(cache, LLAMA).rows) == 30
    assert len(hub.requests) == 3 + 1


def test_one_probe_tells_a_folder_of_the_same_type_apart(ask: Ask, hub: CacheHub) -> None:
    cache = Cache()
    for batch in range(1, 11):
        cache.add(RELEASE, "small", "org/small", batch_size=batch)
    cache.add(RELEASE, "llama", "org/llama")
    assert len(ask(cache, LLAMA).rows) == 1
    assert len(hub.asked("GET", "/resolve/")) == 2


def test_a_hit_reads_no_other_release(ask: Ask, hub: CacheHub) -> None:
    cache = full_cache()
    assert ask(cache, LLAMA).status == "hit"
    read = {request.path.split("/0_REGISTRY/")[1] for request in hub.asked("GET", "/resolve/")}
    assert all(path.startswith("0.4.5/") for path in read)


# --- repositories -------------------------------------------------------------------------------


def test_several_repositories_answer_in_order(hub: CacheHub, connect: Connect) -> None:
    mine, theirs = Cache(), Cache()
    mine.add(RELEASE, "llama", "org/llama", batch_size=1)
    theirs.add(RELEASE, "llama", "org/llama", batch_size=4)
    hub.commit("me/cache", mine.files)
    hub.commit("aws/cache", theirs.files)
    repos = ["me/cache", "aws/cache", "no/such"]
    found = look_up(LLAMA, CacheRequest(batch_size=4), repos=repos, hub=connect())
    assert [(o.source, o.status) for o in found] == [
        ("me/cache", "near"), ("aws/cache", "hit"), ("no/such", "error"),
    ]  # fmt: skip
    assert "no/such" in str(found[2].error)
    with pytest.raises(ModelNotFoundError, match="no/such"):
        look_up(LLAMA, CacheRequest(), repos=["no/such"], hub=connect())


def test_a_private_repository_is_an_error_that_says_so(hub: CacheHub, connect: Connect) -> None:
    hub.commit(REPO, Cache().files, private=True)
    with pytest.raises(ModelNotFoundError, match=REPO) as caught:
        look_up(LLAMA, CacheRequest(), repos=[REPO], hub=connect())
    assert "HF_TOKEN" in str(caught.value.hint)


def test_default_repositories(tmp_path: Path) -> None:
    home = {"HF_HOME": str(tmp_path)}
    assert default_repositories(home) == [PUBLIC_REPOSITORY]
    (tmp_path / "optimum_neuron_custom_cache").write_text("me/saved\n")
    assert default_repositories(home) == ["me/saved"]
    assert default_repositories({**home, "CUSTOM_CACHE_REPO": "me/named"}) == ["me/named"]
    xdg = tmp_path / "huggingface"
    xdg.mkdir()
    (xdg / "optimum_neuron_custom_cache").write_text("me/xdg")
    assert default_repositories({"XDG_CACHE_HOME": str(tmp_path)}) == ["me/xdg"]


def test_list_entries(hub: CacheHub, connect: Connect) -> None:
    cache = full_cache()
    cache.add_pipeline(RELEASE, "org/sd")
    hub.commit(REPO, cache.files)
    entries, skipped = list_entries(repos=[REPO], hub=connect())[REPO]
    assert not skipped
    assert {name for entry in entries for name in entry.model_ids} == {
        "org/llama", "org/small", "org/qwen2", "org/sd",
    }  # fmt: skip
    assert len(entries) == 10
    with pytest.raises(HubError):
        list_entries(repos=["other/repo"], hub=Hub(hub.url, offline=True, cache_dir=Path("/no")))

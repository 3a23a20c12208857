"""A hub that limits, fails, lies or is gone."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from neuron_artifacts.errors import HubError
from neuron_artifacts.neuron_cache import CacheRepository, CacheRequest, Hub, look_up
from neuron_artifacts.neuron_cache.client import describe_age, in_parallel
from neuron_artifacts.neuron_cache.outcome import SourceOutcome
from neuron_artifacts.neuron_cache.responses import Item, Responses, git_object_id
from tests.model.fake_hub import Fault
from tests.neuron_cache.cache_hub import CacheHub
from tests.neuron_cache.caches import REPO, Cache
from tests.neuron_cache.model_configs import LLAMA, QWEN2

Connect = Callable[[], Hub]


@pytest.fixture
def cache(hub: CacheHub) -> Cache:
    cache = Cache()
    for batch in range(1, 13):
        cache.add("0.4.5", "llama", "org/llama", batch_size=batch)
    hub.commit(REPO, cache.files)
    return cache


def ask(hub: Hub, config: dict[str, Any] = LLAMA, **options: Any) -> SourceOutcome:
    [outcome] = look_up(config, CacheRequest(), repos=[REPO], hub=hub, **options)
    return outcome


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
@pytest.mark.parametrize("where", ["/revision/", "/tree/", "/resolve/"])
def test_what_may_pass_is_tried_again(
    hub: CacheHub, connect: Connect, status: int, where: str
) -> None:
    hub.faults.append(Fault(where, status=status, times=2, headers={"Retry-After": "0"}))
    assert len(ask(connect()).rows) == 12


@pytest.mark.usefixtures("cache")
def test_a_pause_that_is_asked_for_holds_back_every_request(
    hub: CacheHub, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    hub.faults.append(Fault("/tree/", status=429, times=1, headers={"Retry-After": "7"}))
    ask(connect())
    assert 6 < max(slept) <= 7
    assert sum(seconds > 6 for seconds in slept) >= 12  # no clock moved: each request waits


def test_giving_up_says_what_the_hub_said(hub: CacheHub, connect: Connect, cache: Cache) -> None:
    hub.faults.append(Fault("/resolve/", status=429, headers={"Retry-After": "3600"}))
    with pytest.raises(HubError, match=r"limiting requests \(429\) and asks to wait 3600 s"):
        ask(connect())
    hub.faults[:] = [Fault("/tree/", status=503)]
    hub.commit(REPO, cache.files)
    hub.requests.clear()
    with pytest.raises(HubError, match="503"):
        ask(connect())
    assert len(hub.asked("GET", "/tree/")) == 3


@pytest.mark.usefixtures("cache")
def test_what_will_not_pass_is_asked_once(hub: CacheHub, connect: Connect) -> None:
    hub.faults.append(Fault("/revision/", status=403))
    with pytest.raises(HubError, match="403"):
        ask(connect())
    assert len(hub.requests) == 1


@pytest.mark.usefixtures("cache")
def test_a_body_cut_short_is_fetched_again(hub: CacheHub, connect: Connect) -> None:
    hub.faults += [
        Fault("/resolve/", cut=50, times=1),
        Fault("/resolve/", cut=50, lie=True, times=1),
        Fault("/resolve/", flip=3, times=1),
    ]
    found = ask(connect())
    assert (len(found.rows), found.skipped) == (12, ())


@pytest.mark.usefixtures("cache")
def test_a_file_that_always_arrives_damaged_is_skipped_and_not_kept(
    hub: CacheHub, connect: Connect
) -> None:
    hub.faults.append(Fault("/resolve/", cut=50, lie=True))
    found = ask(connect())
    assert found.status == "miss"
    assert {skipped.reason for skipped in found.skipped} == {"it arrives damaged"}
    hub.faults.clear()
    assert len(ask(connect()).rows) == 12


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("body", [b"not json", b"[3]", b"{}", b'[{"type": "file"}]'])
@pytest.mark.parametrize("where", ["/revision/", "/tree/"])
def test_an_answer_that_is_no_hubs(
    hub: CacheHub, connect: Connect, where: str, body: bytes
) -> None:
    hub.faults.append(Fault(where, body=body))
    if where == "/tree/" and body == b"{}":
        assert ask(connect()).status == "miss"  # an empty listing
        return
    with pytest.raises(HubError):
        ask(connect())


def test_listings_have_pages(hub: CacheHub, connect: Connect, cache: Cache) -> None:
    hub.page = 5
    assert len(ask(connect()).rows) == 12
    assert len(hub.asked("GET", "/tree/")) > 3


@pytest.mark.usefixtures("cache")
def test_a_token_does_not_follow_a_page_to_another_host(
    hub: CacheHub, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub.page, hub.next_host = 5, f"http://localhost:{hub.port}"
    with pytest.raises(HubError, match="another host"):
        ask(connect())
    assert {request.host for request in hub.requests} == {"127.0.0.1"}


@pytest.mark.usefixtures("cache")
def test_offline_answers_as_before_and_says_how_old_that_is(
    hub: CacheHub, connect: Connect, kept: Path
) -> None:
    online = ask(connect())
    asked = len(hub.requests)
    offline = ask(Hub(hub.url, offline=True, cache_dir=kept))
    assert (offline.rows, offline.commit) == (online.rows, online.commit)
    assert online.age is None
    assert offline.age is not None
    assert 0 <= offline.age < 300
    assert len(hub.requests) == asked


def test_offline_names_what_was_never_fetched(
    hub: CacheHub, connect: Connect, kept: Path, cache: Cache
) -> None:
    away = Hub(hub.url, offline=True, cache_dir=kept)
    with pytest.raises(HubError, match="nothing of org/neuron-cache was fetched before"):
        ask(away)
    cache.add("0.4.5", "qwen2", "org/qwen2")
    hub.commit(REPO, cache.files)
    ask(connect())
    found = ask(away, QWEN2)
    assert [s.reason for s in found.skipped] == [
        "it was never fetched, and --offline forbids to ask"
    ]
    with pytest.raises(HubError, match="never listed before"):
        CacheRepository(REPO, away).list_folder("elsewhere")


def test_offline_falls_back_to_the_newest_commit_that_was_listed(
    hub: CacheHub, connect: Connect, kept: Path, cache: Cache
) -> None:
    first = ask(connect())
    cache.add("0.4.5", "llama", "org/llama", tp_degree=2)
    hub.commit(REPO, cache.files)
    assert CacheRepository(REPO, connect()).find_commit() != first.commit
    offline = ask(Hub(hub.url, offline=True, cache_dir=kept))
    assert (offline.commit, offline.rows) == (first.commit, first.rows)


def test_hf_hub_offline_does_the_same(
    hub: CacheHub, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert Hub(hub.url, cache_dir=kept).offline


@pytest.mark.usefixtures("cache")
def test_a_hub_that_is_gone_points_to_offline(hub: CacheHub, connect: Connect, kept: Path) -> None:
    ask(connect())
    gone = Hub("http://127.0.0.1:9", cache_dir=kept)
    with pytest.raises(HubError, match="refused"):
        ask(gone)
    hub.faults.append(Fault("/revision/", status=503))
    with pytest.raises(HubError) as caught:
        ask(connect())
    assert "--offline answers from what was fetched" in str(caught.value.hint)


@pytest.mark.usefixtures("cache")
def test_damage_on_disk_costs_requests_only(hub: CacheHub, connect: Connect, kept: Path) -> None:
    first = ask(connect())
    for path in kept.rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:-9])
    assert ask(connect()).rows == first.rows


@pytest.mark.usefixtures("cache")
def test_a_folder_that_cannot_be_written_only_costs_time(hub: CacheHub, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert len(ask(Hub(hub.url, cache_dir=tmp_path / "file")).rows) == 12


def test_what_is_kept_is_its_owners(tmp_path: Path) -> None:
    kept = Responses("http://hub", REPO, tmp_path)
    kept.keep_commit("main", "c" * 40)
    assert (tmp_path / "hub").stat().st_mode & 0o077 == 0


def test_what_is_kept_is_read_with_a_bound(tmp_path: Path) -> None:
    kept = Responses("http://hub", REPO, tmp_path)
    item = Item("a", git_object_id(b"abc"), 3, False)
    kept.keep_blob("c1", item, b"abc")
    kept.keep_file("main", "config.json", b"{}", None)
    for path in (path for path in tmp_path.rglob("*") if path.is_file()):
        os.truncate(path, 1 << 40)
    assert kept.blob("c1", item) is None
    assert kept.file("main", "config.json") is None


def test_ids_that_are_not_gits_are_kept_by_place(tmp_path: Path) -> None:
    kept = Responses("http://hub", REPO, tmp_path)
    item = Item("a/../b", "../../escape", 3, False)
    kept.keep_blob("c1", item, b"abc")
    assert kept.blob("c1", item) == b"abc"
    assert kept.blob("c2", item) is None
    assert all(path.is_relative_to(tmp_path) for path in tmp_path.rglob("*"))
    assert git_object_id(b"") == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"


def test_the_first_failure_ends_the_rest() -> None:
    done: list[int] = []

    def work(number: int) -> int:
        if number == 0:
            raise HubError("gone")
        done.append(number)
        return number

    with pytest.raises(HubError):
        in_parallel(work, range(10_000))
    assert len(done) < 10_000
    assert in_parallel(lambda n: n * 2, [1, 2, 3]) == [2, 4, 6]
    assert in_parallel(work, []) == []


def test_ages_for_people() -> None:
    told = [describe_age(seconds) for seconds in (5, 90, 7200, 86400, 200_000)]
    assert told == ["5 s", "1 minute", "2 hours", "1 day", "2 days"]

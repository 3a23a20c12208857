"""The registry in the local compile cache, which optimum-neuron fills before it is pushed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from neuron_artifacts.neuron_cache import CacheOptions, CacheRequest, Hub, Inquiry
from neuron_artifacts.neuron_cache.folder import FolderRepository
from neuron_artifacts.neuron_cache.listing import summarise
from tests.neuron_cache.cache_hub import CacheHub
from tests.neuron_cache.caches import RELEASES, REPO, Cache
from tests.neuron_cache.model_configs import CLASSIFIER, LLAMA, QWEN2

RELEASE = "0.4.5"


def put(root: Path, cache: Cache) -> Path:
    """Write a cache to disk as optimum-neuron does: aliases are links."""
    first: dict[str, Path] = {}
    for name, data in sorted(cache.files.items()):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if "0_REGISTRY" in name and path.name in first:
            path.symlink_to(first[path.name])
        else:
            path.write_bytes(data)
            first[path.name] = path
    return root


@pytest.fixture
def ask(tmp_path: Path, connect: Callable[[], Hub]) -> Callable[..., Inquiry]:
    def look(config: dict[str, Any], prove: bool = False, **wanted: Any) -> Inquiry:
        model = tmp_path / "model"
        model.mkdir(exist_ok=True)
        (model / "config.json").write_text(json.dumps(config))
        request = CacheRequest(**wanted)
        options = CacheOptions(repos=(REPO,), prove=prove)
        return Inquiry(str(model), request, connect(), options=options)

    return look


def test_a_local_export_is_found_without_a_hub(
    tmp_path: Path, ask: Callable[..., Inquiry], hub: CacheHub
) -> None:
    cache = Cache()
    for batch in (1, 4):
        cache.add(RELEASE, "llama", "org/llama", batch_size=batch)
    cache.add("0.4.4", "llama", "org/llama", batch_size=8)
    root = put(tmp_path / "cache", cache)
    found = ask(LLAMA, batch_size=4).ask_folder(root, "local")
    assert found is not None
    assert (found.source, found.status, found.release) == ("local", "hit", RELEASE)
    near = ask(LLAMA, batch_size=2).ask_folder(root, "local")
    assert near is not None
    assert near.nearest.sufficient is not None
    assert near.nearest.sufficient.row.shape["batch_size"] == 4
    assert [n.row.release for n in near.nearest.other_release] == ["0.4.4"]
    missed = ask(QWEN2).ask_folder(root, "local")
    assert missed is not None
    assert missed.status == "miss"
    assert not hub.requests


def test_traced_graphs_are_proved_on_disk(tmp_path: Path, ask: Callable[..., Inquiry]) -> None:
    cache = Cache()
    path = cache.add_traced(RELEASE, "classifier", "org/c", "text-classification")
    root = put(tmp_path / "cache", cache)
    found = ask(CLASSIFIER, prove=True).ask_folder(root, "local")
    assert found is not None
    assert found.rows[0].proved is True
    module = f"neuronxcc-{RELEASES[RELEASE][0]}/MODULE_{Path(path).stem}"
    (root / module / "model.neuron").unlink()
    (root / module).rmdir()
    found = ask(CLASSIFIER, prove=True).ask_folder(root, "local")
    assert found is not None
    assert found.rows[0].proved is False


def test_a_local_hit_ends_the_question(
    tmp_path: Path, ask: Callable[..., Inquiry], hub: CacheHub
) -> None:
    cache = Cache()
    cache.add(RELEASE, "llama", "org/llama", batch_size=4)
    root = put(tmp_path / "cache", cache)
    hub.commit(REPO, cache.files)
    assert [o.source for o in ask(LLAMA, batch_size=4).ask(root).outcomes] == [str(root)]
    assert not hub.requests
    outcomes = ask(LLAMA, batch_size=2).ask(root).outcomes
    assert [(o.source, o.status) for o in outcomes] == [(str(root), "near"), (REPO, "near")]


def test_a_cache_that_optimum_never_used_has_no_answer(
    tmp_path: Path, ask: Callable[..., Inquiry]
) -> None:
    (tmp_path / "cache" / "neuronxcc-2.21" / "MODULE_1+2").mkdir(parents=True)
    assert ask(LLAMA).ask_folder(tmp_path / "cache", "local") is None


def test_broken_links_and_damage_are_skipped(tmp_path: Path, ask: Callable[..., Inquiry]) -> None:
    cache = Cache()
    good = cache.add(RELEASE, "llama", "org/llama")
    root = put(tmp_path / "cache", cache)
    (root / good).with_name(f"{'0' * 20}.json").symlink_to(root / "gone")
    (root / good).with_name(f"{'1' * 20}.json").write_bytes(b"{")
    found = ask(LLAMA).ask_folder(root, "local")
    assert found is not None
    assert found.status == "hit"
    assert [Path(s.path).name for s in found.skipped] == [f"{'1' * 20}.json"]


def test_an_absurdly_large_entry_is_skipped_unread(
    tmp_path: Path, ask: Callable[..., Inquiry]
) -> None:
    cache = Cache()
    good = cache.add(RELEASE, "llama", "org/llama")
    root = put(tmp_path / "cache", cache)
    os.truncate(root / good, 1 << 40)
    found = ask(LLAMA).ask_folder(root, "local")
    assert found is not None
    assert (found.status, len(found.skipped)) == ("miss", 1)
    assert "larger than 1 MiB" in found.skipped[0].reason


def test_a_registry_is_summarised_from_its_paths(tmp_path: Path) -> None:
    cache = Cache()
    for batch in (1, 2, 4):
        cache.add(RELEASE, "llama", "org/llama", batch_size=batch)
    cache.add(RELEASE, "llama", "me/tune", batch_size=8)
    cache.add(RELEASE, "qwen2", "org/qwen")
    cache.add("0.4.4", "qwen2", "org/qwen")
    cache.add("0.4.4", "qwen2", "org/other")
    found = summarise(FolderRepository(put(tmp_path, cache)))
    assert (found.release, found.other_releases) == (RELEASE, {"0.4.4": 2})
    assert [(m.model_type, m.model_ids, m.entries) for m in found.models] == [
        ("llama", ("me/tune", "org/llama"), 4), ("qwen2", ("org/qwen",), 1),
    ]  # fmt: skip
    older = summarise(FolderRepository(tmp_path), release="0.4.4")
    assert [(m.model_ids, m.entries) for m in older.models] == [
        (("org/other",), 1), (("org/qwen",), 1),
    ]  # fmt: skip

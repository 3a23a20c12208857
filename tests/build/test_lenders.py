"""While a build takes files from an artifact, nobody collects that artifact."""

from __future__ import annotations

from pathlib import Path

import pytest

from neuron_artifacts.artifact import verify_artifact
from neuron_artifacts.build import compile_artifact
from neuron_artifacts.errors import ResourceError
from neuron_artifacts.events import Event, PhaseEnded
from neuron_artifacts.spec import CompileSpec, resolve_spec
from neuron_artifacts.store import LocalStore
from neuron_artifacts.store.gc import plan_collection, remove, take_inventory
from neuron_artifacts.store.leases import holders, store_time
from neuron_artifacts.store.staging import Staging
from tests.models import SMALL, change_weights, copy_model


def spec_in(place: Path) -> CompileSpec:
    return resolve_spec({"model": str(place / "model"), "store": str(place), **SMALL}, environ={})


@pytest.fixture
def place(tmp_path: Path) -> Path:
    copy_model(tmp_path / "model")
    return tmp_path


def test_a_lender_is_held_while_a_build_takes_from_it(place: Path) -> None:
    lender = compile_artifact(spec_in(place), environ={}).path
    change_weights(place / "model")
    store = LocalStore(place)
    seen: list[bool] = []

    def collect(event: Event) -> None:
        if isinstance(event, PhaseEnded) and event.name in ("compile", "weights"):
            seen.append(bool(holders(lender, store_time(store.root))))
            entries, now = take_inventory(store)
            assert not remove(store, plan_collection(entries, now=now, max_size=0).removals)

    outcome = compile_artifact(spec_in(place), environ={}, observe=collect)
    assert outcome.compiled == 0
    assert seen == [True, True]
    assert not holders(lender, store_time(store.root))


def test_what_made_way_comes_back_if_nothing_takes_its_place(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = compile_artifact(spec_in(place), environ={}).path
    inode = sound.stat().st_ino

    def fail(*_args: object, **_options: object) -> bool:
        raise ResourceError("no space left")

    monkeypatch.setattr(Staging, "publish", fail)
    with pytest.raises(ResourceError):
        compile_artifact(spec_in(place), environ={}, force=True)
    assert sound.stat().st_ino == inode
    assert verify_artifact(sound, "full").status == "ok"

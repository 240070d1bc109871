"""Laws of crashes: wherever the power goes, one whole set runs, and the next start ends what was begun."""

from __future__ import annotations

import pytest

from edge_producer.updates.installer import Shared
from edge_producer.updates.slots import ModelSet, Slots
from tests.edge_producer.bench import Bench, edge_settings, quick_machine
from tests.simulators.lossy_disk import LossyDisk, PowerCut
from tests.simulators.update_service import UpdateService, candidate

PROFILE = quick_machine()


@pytest.fixture
def service(tmp_path):
    with UpdateService(tmp_path) as running:
        yield running


def whole_set(settings, disk) -> str:
    """Version of the set that a start without network would run; fails if it is not whole."""
    slots = Slots(settings.updates_dir / "m-1", PROFILE, disk)
    return slots.bundle(slots.pointer().active).manifest.version


def test_the_power_may_go_after_any_write(service, tmp_path):
    """The same update again and again, cut one write later each time; the trial's child goes on living."""
    bundle = candidate(1)
    release = service.sign(bundle)
    service.instruct(release)
    shared = Shared.of(PROFILE)
    bundle.write(tmp_path / "bundle")
    wanted = ModelSet(releases={"machine": release})
    child = shared.trials.join(wanted.digest, tmp_path / "bundle")
    factory = service.factory.version
    cut, seen = 0, set()
    while True:
        cut += 1
        folder = tmp_path / f"run-{cut}"
        service.join(folder / "join", "m-1")
        settings = edge_settings(folder)
        disk = LossyDisk(settings.updates_dir, cut)
        try:
            with Bench(settings, PROFILE, disk, shared) as bench:
                bench.settle(release.version)
                whole = disk.renames < cut
        except PowerCut:
            whole = False
        if whole:
            break
        disk.power_cut()
        seen.add(whole_set(settings, disk))
        with Bench(settings, PROFILE, disk, shared) as again:
            again.settle(release.version)
        disk.close()
        assert service.results("m-1")[-1] == "committed"
    shared.trials.leave(wanted.digest, child)
    assert cut > 25
    assert seen == {factory, release.version}

"""Faults of the loop: a rollout of a new model runs while its processes, files and network break."""

from __future__ import annotations

import random
from pathlib import Path

from infra.stack.model_settings import model_settings
from tests.faults.damage import overwrite, truncate
from tests.faults.fault_kinds import Allowance, fault
from tests.faults.fault_rig import FaultRig, hold
from tests.faults.releases import Release, sign_release
from tests.waiting import wait_until

MODEL_PROCESSES = ("model-serve", "model-engine", "model-guard", "model-trainer", "model-gate")
ENDED = ("completed", "completed_partial", "superseded", "rolled_back", "rolled_back_partial")
_ENDS_S = 240.0


def _rollouts(rig: FaultRig) -> list[dict[str, object]]:
    found: list[dict[str, object]] = rig.command.json("rollout", "history")
    return found


def begin_rollout(rig: FaultRig, *, wrong: bool = False) -> Release:
    """Sign a model and wait until the engine has begun to roll it out."""
    release = sign_release(model_settings(rig.settings, rig.broker), wrong=wrong)
    wait_until(
        lambda: any(release.version in str(r) for r in _rollouts(rig)), 60, f"a rollout of {release.version}"
    )
    return release


def finish_rollout(rig: FaultRig, release: Release, faults: int = 1) -> Allowance:
    """Wait until the rollout has ended; a pause that asks for a person is answered as one would."""

    def ended() -> bool:
        [mine] = [r for r in _rollouts(rig) if release.version in str(r)][:1] or [{}]
        if mine.get("state") == "paused":
            rig.command("rollout", "resume", str(mine["rollout_id"]), "--reason", "the campaign says so")
        return mine.get("state") in ENDED

    wait_until(ended, _ENDS_S, f"the rollout of {release.version} to end (10)")
    state = next(r["state"] for r in _rollouts(rig) if release.version in str(r))
    good = release.version if str(state).startswith("completed") else ""
    return Allowance(faults=faults, versions=tuple({good, *release.earlier}) if not good else (good,))


@fault("loop", "nothing: a rollout of a good model ends")
def rollout_undisturbed(rig: FaultRig, _rng: random.Random) -> Allowance:
    return finish_rollout(rig, begin_rollout(rig), 0)


@fault("loop", "a model whose golden scores are wrong, with every signature right")
def wrong_model(rig: FaultRig, _rng: random.Random) -> Allowance:
    release = begin_rollout(rig, wrong=True)
    allowed = finish_rollout(rig, release)
    assert release.version not in allowed.versions, f"the wrong model {release.version} was completed"
    return allowed


def _killing(rig: FaultRig, rng: random.Random, name: str) -> Allowance:
    release = begin_rollout(rig)
    times = rng.randint(1, 3)
    for _ in range(times):
        hold(rng, 0.5, 5)
        rig.kill(name)
    return finish_rollout(rig, release, times)


@fault("loop", "kill -9 the public process 1 to 3 times during a rollout")
def serve_killed(rig: FaultRig, rng: random.Random) -> Allowance:
    return _killing(rig, rng, "model-serve")


@fault("loop", "kill -9 the rollout engine 1 to 3 times during a rollout")
def engine_killed(rig: FaultRig, rng: random.Random) -> Allowance:
    return _killing(rig, rng, "model-engine")


@fault("loop", "kill -9 the guard 1 to 3 times during a rollout")
def guard_killed(rig: FaultRig, rng: random.Random) -> Allowance:
    return _killing(rig, rng, "model-guard")


@fault("loop", "kill -9 trainer and gate during a rollout")
def trainer_and_gate_killed(rig: FaultRig, rng: random.Random) -> Allowance:
    release = begin_rollout(rig)
    hold(rng, 0.5, 4)
    rig.kill("model-trainer")
    rig.kill("model-gate")
    return finish_rollout(rig, release, 2)


@fault("loop", "kill -9 all five processes at once during a rollout")
def model_service_killed(rig: FaultRig, rng: random.Random) -> Allowance:
    release = begin_rollout(rig)
    hold(rng, 1, 6)
    for name in MODEL_PROCESSES:
        rig.kill(name)
    return finish_rollout(rig, release, len(MODEL_PROCESSES))


@fault("loop", "SIGSTOP the public process for 3 to 12 s during a rollout", decides=True)
def serve_paused(rig: FaultRig, rng: random.Random) -> Allowance:
    release = begin_rollout(rig)
    with rig.paused(rig.process("model-serve")):
        hold(rng, 3, 12)
    return finish_rollout(rig, release)


@fault("loop", "kill -9 an edge process once or twice during a rollout")
def device_killed_in_rollout(rig: FaultRig, rng: random.Random) -> Allowance:
    release = begin_rollout(rig)
    times = rng.randint(1, 2)
    for _ in range(times):
        hold(rng, 0.5, 8)
        name = rig.any_edge(rng)
        rig.edges[name].child.kill()
        rig.restart_edge(name)
    return finish_rollout(rig, release, times)


@fault("loop", "the network to the model service is cut for 4 to 10 s during a rollout", decides=True)
def delivery_cut(rig: FaultRig, rng: random.Random) -> Allowance:
    release = begin_rollout(rig)
    assert rig.delivery is not None
    rig.delivery.set("cut")
    hold(rng, 4, 10)
    rig.delivery.set("open")
    return finish_rollout(rig, release)


@fault("loop", "connections to the model service pass nothing for 4 to 10 s during a rollout", decides=True)
def delivery_half_open(rig: FaultRig, rng: random.Random) -> Allowance:
    release = begin_rollout(rig)
    assert rig.delivery is not None
    rig.delivery.set("silent")
    hold(rng, 4, 10)
    rig.delivery.set("open")
    return finish_rollout(rig, release)


@fault("loop", "no byte fits on the disks of the model service for 3 to 8 s during a rollout", decides=True)
def model_service_disk_full(rig: FaultRig, rng: random.Random) -> Allowance:
    release = begin_rollout(rig)
    with rig.no_room(*(rig.process(name) for name in MODEL_PROCESSES)):
        hold(rng, 3, 8)
    return finish_rollout(rig, release)


def _device_file(rig: FaultRig, rng: random.Random, name: str) -> Allowance:
    """Harm one file of one device's updater while its process is down."""
    edge_name = rig.any_edge(rng)
    edge = rig.edges[edge_name]
    edge.child.kill()
    found = sorted(edge.folder.glob(f"updates/*/{name}"))
    if found:
        rng.choice((truncate, overwrite))(rng.choice(found), rng)
    rig.restart_edge(edge_name)
    return Allowance()


@fault("loop", "harm a device's record of its update while its process is down")
def device_record_harmed(rig: FaultRig, rng: random.Random) -> Allowance:
    return _device_file(rig, rng, "state.json")


@fault("loop", "harm a device's pointer to its model while its process is down")
def device_pointer_harmed(rig: FaultRig, rng: random.Random) -> Allowance:
    return _device_file(rig, rng, "current.json")


@fault("loop", "harm a device's trust metadata while its process is down")
def device_metadata_harmed(rig: FaultRig, rng: random.Random) -> Allowance:
    return _device_file(rig, rng, "metadata/*.json")


@fault("loop", "harm an installed model's graph while its process is down")
def device_model_harmed(rig: FaultRig, rng: random.Random) -> Allowance:
    return _device_file(rig, rng, "slots/*/*/model.onnx")


@fault("loop", "harm the address file of the model service")
def address_file_harmed(rig: FaultRig, rng: random.Random) -> Allowance:
    path = Path(model_settings(rig.settings, rig.broker).address_file)
    overwrite(path, rng)
    rig.kill("model-serve")
    return Allowance()

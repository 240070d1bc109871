"""A deployment of the model service with simulated devices: they obey channel documents by report alone."""

import hashlib
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import insert, select

from feature_store.lake import Lake
from feature_store.lake_registry import ProfileRegistry
from infra.stack.model_processes import as_environment
from model_service.fleet.device_reports import record_report
from model_service.processes.engine_process import build_engine
from model_service.processes.guard_process import build_guard
from model_service.registry.database import Registry
from model_service.registry.registry_tables import candidates, commands, devices, gate_verdicts, rollouts
from model_service.rollout import rollout_store
from model_service.settings import ModelSettings
from model_service.trust import ceremony
from model_service.trust.keys import load_online_key
from model_service.trust.model_targets import countersign_model, propose_model
from model_service.trust.online import OnlineSigner
from schemas.channel_documents import BROAD, ChannelDocument, Release, TargetCustom, model_role
from schemas.cohorts import EVERYBODY
from schemas.profile import Profile
from schemas.proto.delivery_pb2 import Installed, ReportRequest, Shadow
from tests.quick_machine_profile import quick_machine_profile

FAMILY = "machine"
FACTORY = "machine-0.00000000"
GROUP = "line"


def quick_profile(**rollout) -> Profile:
    """The machine profile with a rollout that does not wait, and has a holdout only if one is asked for."""
    profile = quick_machine_profile()
    held = {"no_holdout": "holdout_share" not in rollout}
    given = {"soak_s": 0.0, "silent_s": 20.0, "reach_s": 20.0, **held, **rollout}
    return profile.model_copy(update={"rollout": profile.rollout.model_copy(update=given)})


@dataclass
class RolloutDeployment:
    """Folder, registry, lake and repository of one deployment; engine and guard run on them."""

    root: Path
    settings: ModelSettings = field(init=False)
    registry: Registry = field(init=False)
    numbers: dict[str, int] = field(default_factory=dict)
    installed: dict[str, Release] = field(default_factory=dict)
    failed: set[tuple[str, int]] = field(default_factory=set)

    def __post_init__(self):
        self.settings = ModelSettings(root=self.root / "models", lake_root=self.root / "lake", tick_s=0.05)
        ceremony.init(self.settings, [FAMILY], {GROUP: EVERYBODY, "other": EVERYBODY})
        self.registry = Registry.open(self.settings.database_url, self.settings.root)
        self.lake = Lake.open(self.settings.lake_root)
        self.repo = ceremony.open_repository(self.settings)

    def start(self, name: str) -> subprocess.Popen:
        """A real process of the model service; the caller ends it."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("MODEL_")}
        environment = {**inherited, **as_environment(self.settings), "ORT_DISABLE_TELEMETRY": "1"}
        with (self.root / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "model_service", name], env=environment, stdout=log, stderr=log
            )

    def use(self, profile: Profile) -> None:
        """Register the profile of the devices."""
        ProfileRegistry(self.lake).register(profile)

    def engine(self):
        """An engine with its keys."""
        return build_engine(
            self.settings, self.registry, self.lake, self.repo, OnlineSigner.load(self.settings)
        )

    def guard(self):
        """A guard with its key."""
        return build_guard(self.settings, self.registry, self.lake)

    def join(
        self,
        count: int,
        group: str = GROUP,
        *,
        profile: str = FAMILY,
        prefix: str = "",
        enrolled_at: float | None = None,
    ) -> list[str]:
        """Let devices join."""
        names = [f"{prefix or group}-{i:03d}" for i in range(count)]
        with self.registry.transaction() as connection:
            for i, name in enumerate(names):
                connection.execute(
                    insert(devices).values(
                        device_id=name, profile=profile, site=f"site-{i % 2}", grp=group, hardware="sim",
                        key_id=name, public_key="", gateway=None, active=True,
                        enrolled_at=time.time() if enrolled_at is None else enrolled_at,
                    )
                )  # fmt: skip
        self.installed |= {name: Release(version=FACTORY) for name in names}
        return names

    def sign(
        self,
        major: int,
        *,
        gates: bool = True,
        state: str = "signed",
        family: str = FAMILY,
        champion: str = FACTORY,
    ) -> Release:
        """A candidate that trainer and gate have signed."""
        data = f"{family} {major}".encode() * 10
        version = f"{family}-{major}.{major:08x}"
        role = model_role(family)
        keys = self.settings.keys
        custom = TargetCustom(family=family, version=version, opset=17)
        propose_model(self.repo, load_online_key(keys / "trainer", role), data, custom)
        digest = hashlib.sha256(data).hexdigest()
        countersign_model(self.repo, load_online_key(keys / "gate", role), digest, custom)
        now = time.time()
        with self.registry.transaction() as connection:
            connection.execute(
                insert(candidates).values(
                    version=version, family=family, major=major, kind="anomaly", run_id="r",
                    champion=champion, sha256=digest, length=len(data), manifest={}, state=state,
                    detail="", created_at=now, updated_at=now,
                )
            )  # fmt: skip
            if gates:
                connection.execute(
                    insert(gate_verdicts).values(
                        version=version, gate="quality", passed=True, detail={}, evaluated_at=now
                    )
                )
        return Release(version=version, sha256=digest)

    def command(self, kind: str, **body) -> int:
        """Ask the engine for something."""
        values = {"kind": kind, "body": body, "actor": "anna", "state": "waiting", "created_at": time.time()}
        with self.registry.transaction() as connection:
            return connection.execute(insert(commands).values(**values)).inserted_primary_key[0]

    def answer(self, command_id: int) -> tuple[str, dict]:
        """State and outcome of a command."""
        with self.registry.reading() as connection:
            query = select(commands.c.state, commands.c.outcome).where(commands.c.id == command_id)
            return tuple(connection.execute(query).one())

    def rollout(self, number: int = 1, group: str = GROUP):
        """A rollout's record; None: there is none yet."""
        with self.registry.reading() as connection:
            query = select(rollouts.c.rollout_id).where(rollouts.c.rollout_id == f"{group}-{number}")
            found = connection.execute(query).scalar_one_or_none()
            return None if found is None else rollout_store.load(connection, found)

    def requests(self, number: int = 1, group: str = GROUP):
        """Documents of a rollout."""
        with self.registry.reading() as connection:
            return rollout_store.requests(connection, f"{group}-{number}")

    def in_force(self, device: str, group: str = GROUP) -> ChannelDocument | None:
        """The channel document that the device obeys."""
        out = self.repo.channels(group)
        pool = self.repo.policy().canary[group]
        mine = [c for c in out.values() if c.ring == BROAD or pool.includes(device)]
        return max(mine, key=lambda c: c.seq, default=None)

    def report(self, device: str, channel: ChannelDocument, state: str, result: str, **fields) -> None:
        """Store a report of the device about what the document wants of it."""
        wanted = fields.pop("wanted", None) or channel.wanted(device)[FAMILY]
        number = self.numbers[device] = self.numbers.get(device, 0) + 1
        runs = self.installed[device]
        attempted = Installed(family=FAMILY, version=wanted.version, sha256=wanted.sha256 or "")
        fields.setdefault("attempted", attempted)
        request = ReportRequest(
            device_id=device,
            report_no=number,
            nonce=f"{device}/{number}",
            state=state,
            result=result,
            channel_seq=channel.seq,
            rollout_id=channel.rollout_id,
            installed=[Installed(family=FAMILY, version=runs.version, sha256=runs.sha256 or "")],
            **fields,
        )
        with self.registry.transaction() as connection:
            record_report(connection, request, time.time())

    def obey(self, names, *, bad=(), gain: int = 0, group: str = GROUP) -> int:
        """Devices do at once what the documents want; ``bad`` ones restore. Returns how many changed."""
        changed = 0
        for device in names:
            channel = self.in_force(device, group)
            wanted = None if channel is None else channel.wanted(device)[FAMILY]
            if wanted is None or wanted == self.installed[device] or (device, channel.seq) in self.failed:
                continue
            changed += 1
            shadow = Shadow(
                active_version=self.installed[device].version, shadow_version=wanted.version,
                windows=10, active_alarms=1, shadow_alarms=1 + gain,
            )  # fmt: skip
            self.report(device, channel, "trial", "")
            if device in bad and wanted.major:
                self.failed.add((device, channel.seq))
                self.report(device, channel, "restored", "restored", shadow=shadow)
                continue
            self.installed[device] = wanted
            self.report(device, channel, "committed", "committed", shadow=shadow)
            self.report(device, channel, "idle", "committed", shadow=shadow)
        return changed


def proposed(deployment: RolloutDeployment) -> list[str]:
    """A rollout whose canaries did well, and whose first broad phase waits for the guard."""
    names = deployment.join(20)
    deployment.sign(1)
    engine = deployment.engine()
    for _ in range(10):
        engine.tick()
        if len(deployment.requests()) == 2:
            return names
        deployment.obey(names)
    raise AssertionError(deployment.rollout())

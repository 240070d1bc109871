"""Sets up a demo: its folder, stack, fleet and scenario."""

from __future__ import annotations

import contextlib
import shutil
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from feature_store.lake import Lake
from infra.demo.plan import SOUTH, DemoPlan, make_plan, on_window
from infra.demo.screen import DemoScreen
from infra.demo.story import DemoSize, usual_size
from infra.process.ports import LOOPBACK
from infra.process.tcp_proxy import TcpProxy
from infra.stack.edge_processes import EdgeProcess, EdgeSpec
from infra.stack.model_processes import CANARY_POOL, GROUP
from infra.stack.model_settings import model_settings
from infra.stack.running import RunningStack
from infra.stack.stack_file import DEMO_MARKER
from model_service import ModelSettings, ceremony
from schemas.errors import StackError
from schemas.profile import Profile
from schemas.profile_file import find_profile

HEAD_START_S = 4.0
JOIN_HEAD_START_S = 8.0
POLL_S = "5"
DATA = ("lake", "models", "kafka", "edge", "labels")
"""Folders that a stack keeps in its state folder, beside logs and locks."""
PREVIOUS = "previous-demo"


CANARIES = 3
"""Devices that a rollout begins with, at least."""


@dataclass(frozen=True)
class DemoRequest:
    """The options of `edgeloop demo`.

    Attributes:
        seconds: Length of the simulation.
        loop: Run the whole loop; False: the pipeline alone.
    """

    profile: str = "machine_demo"
    devices: int = 20
    seconds: float = 180.0
    seed: int = 7
    loop: bool = True

    @classmethod
    def of(
        cls, profile: str, devices: int | None, seconds: float | None, seed: int, *, loop: bool
    ) -> DemoRequest:
        """The request; a size that nobody gave is that of the profile's demo.

        Raises:
            ProfileError: No such profile, or its generator has no demo.
        """
        simulate = find_profile(profile).simulate
        size = DemoSize() if simulate is None else usual_size(simulate.generator)
        return cls(profile, devices or size.devices, seconds or size.seconds, seed, loop)


@dataclass
class DemoStage:
    """A demo that is set up or running.

    Attributes:
        since: UTC instant before anything of this demo happened.
        run: Random name of this run, part of its folders' names.
        edges: One edge process a site, the gateway of its devices.
        proxy: The south's link to the broker, which can be cut; None: somebody else's broker.
    """

    request: DemoRequest
    profile: Profile
    plan: DemoPlan
    stack: RunningStack
    lake: Lake
    screen: DemoScreen
    since: datetime
    run: str
    edges: list[EdgeProcess] = field(default_factory=list)
    proxy: TcpProxy | None = None

    @property
    def elapsed_s(self) -> float:
        """Seconds since the simulation began; negative before."""
        return (datetime.now(UTC) - self.plan.scenario.start).total_seconds()

    @property
    def models(self) -> ModelSettings:
        """Settings of the stack's model service."""
        return model_settings(self.stack.settings, self.stack.bootstrap_servers)

    @property
    def edge_root(self) -> Path:
        """Parent of the edge processes' folders."""
        return self.stack.settings.state_dir / "edge"

    def check_edges(self) -> None:
        """Return if no edge process ended early.

        Raises:
            StackError: One did.
        """
        for edge in self.edges:
            if edge.child.exit_code not in (None, 0):
                tail = " | ".join(edge.child.log_tail(3))
                raise StackError(f"edge process {edge.spec.name} ended with {edge.child.exit_code}: {tail}")


def begin_afresh(state_dir: Path) -> None:
    """Let a demo begin with nothing: move what the last demo left to ``previous-demo``.

    Called by the process that holds the folder's stack.

    Raises:
        StackError: The folder holds data that no demo made, or that a person has used since.
    """
    left = [state_dir / name for name in DATA if (state_dir / name).exists()]
    if left and not (state_dir / DEMO_MARKER).exists():
        raise StackError(
            f"{state_dir} holds a stack of yours: run the demo in another folder "
            "(EDGELOOP_STATE_DIR=… or --state-dir before `demo`), or the pipeline alone with --no-loop"
        )
    if left:
        previous = state_dir / PREVIOUS
        shutil.rmtree(previous, ignore_errors=True)
        previous.mkdir()
        for path in left:
            path.rename(previous / path.name)
    (state_dir / DEMO_MARKER).touch()


def mark_if_new(state_dir: Path) -> None:
    """Mark a folder that holds no stack yet as a demo's."""
    with contextlib.suppress(OSError):  # the stack's start reports what is wrong with the folder
        if not any((state_dir / name).exists() for name in DATA):
            state_dir.mkdir(parents=True, exist_ok=True)
            (state_dir / DEMO_MARKER).touch()


def prepare(request: DemoRequest, profile: Profile, stack: RunningStack, screen: DemoScreen) -> DemoStage:
    """Make folders, keys, join bundles and scenario of every edge process; none of them runs yet."""
    since = datetime.now(UTC)
    head_start_s = JOIN_HEAD_START_S if request.loop else HEAD_START_S
    start = on_window(since + timedelta(seconds=head_start_s), profile.drift.window_s)
    head_start_s = (start - since).total_seconds()
    plan = make_plan(profile, request.devices, request.seconds, request.seed, start, loop=request.loop)
    run = uuid.uuid4().hex[:6]
    stage = DemoStage(request, profile, plan, stack, Lake.open(stack.lake_root), screen, since, run)
    if stack.site is not None:
        stage.proxy = TcpProxy((LOOPBACK, stack.site.bind_port), stack.site.front_port).start()
    for site, devices in plan.sites.items():
        stage.edges.append(_edge(stage, site, devices, head_start_s))
    if request.loop:
        _name_canaries(stage)
    return stage


def _name_canaries(stage: DemoStage) -> None:
    """Have the policy name canaries where its share of the fleet holds too few: of a small one maybe none."""
    others = [d for d in stage.plan.devices if not CANARY_POOL.includes(d)]
    lacking = CANARIES - (len(stage.plan.devices) - len(others))
    if lacking > 0:
        named = CANARY_POOL.model_copy(update={"devices": tuple(others[:lacking])})
        ceremony.set_policy(stage.models, canary={GROUP: named})


def _edge(stage: DemoStage, site: str, devices: tuple[str, ...], head_start_s: float) -> EdgeProcess:
    stack, request = stage.stack, stage.request
    behind = stage.proxy is not None and site == SOUTH
    servers = f"{LOOPBACK}:{stack.site.front_port}" if behind and stack.site else stack.bootstrap_servers
    folder = stage.edge_root / f"{site}-{stage.run}"
    folder.mkdir(parents=True)
    scenario = folder / "scenario.json"
    scenario.write_text(stage.plan.scenario.model_dump_json(indent=2))
    options = {
        "source": "simulate",
        "scenario": str(scenario),
        "seed": str(request.seed),
        "duration_s": str(stage.plan.seconds + head_start_s),
    }
    if request.loop:
        options |= {"shadow_previous": "true", "update_poll_s": POLL_S}
    spec = EdgeSpec(
        f"{site}-{stage.run}",
        request.profile,
        devices,
        servers,
        stack.namespace,
        site=site,
        group=GROUP,
        options=options,
        gateway=f"gateway-{site}",
    )
    edge = EdgeProcess(spec, stage.edge_root, stack.settings.logs_dir)
    if request.loop:
        edge.register_profile(stage.lake, stage.profile)
        edge.join(stage.models)
    else:
        edge.register(stage.lake, stage.profile)
    return edge

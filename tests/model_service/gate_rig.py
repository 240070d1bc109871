"""A gate with real surroundings: lake with rows at a pin, registry, artifacts, trust repository."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from sqlalchemy import insert, select, update

from feature_store import connect
from feature_store.append import append
from feature_store.cut_store import CutStore
from feature_store.lake_registry import DeviceRecord, DeviceRegistry, ProfileRegistry
from feature_store.point_in_time import RowSelection, training_rows
from model_service.gates.gate import Gate
from model_service.models.bundle_files import BundleFiles
from model_service.models.candidate import build_candidate
from model_service.registry.bundle_store import store_artifact
from model_service.registry.database import Registry
from model_service.registry.registry_tables import candidates, gate_verdicts, outbox, runs
from model_service.settings import ModelSettings
from model_service.training.lineage import lineage_rows, selection_of, stored_selection
from model_service.training.proposing import Proposer
from model_service.training.run_store import runs_of
from model_service.trust import ceremony
from schemas.cohorts import SaltedShare
from schemas.row_schemas import Reason
from tests.feature_store.fleets import land, machine_lake, telemetry
from tests.model_service.regimes import CHAMPION, LINEAGE, MACHINE, Story, features, name, unhurried

SPAN = range(60, 72)
DEVICES = 12
PIN = "run-run-1"


class GateRig:
    """One run whose candidate is handed to the gate."""

    def __init__(self, folder: Path) -> None:
        self.settings = ModelSettings(root=folder / "models", lake_root=folder / "lake", tick_s=0.02)
        ceremony.init(self.settings, ["machine"], {"default": SaltedShare(share=0.3)})
        self.registry = Registry.open(self.settings.database_url, self.settings.root)
        self.start = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=10)
        self.gate = Gate(self.settings, self.registry)

    def train(
        self, story: Story, moved: tuple[str, ...] = ("temperature",), *, propose: bool = True, **changed: Any
    ) -> str:
        """Hand in a candidate as a trainer does, correct or not; returns its version.

        Args:
            story: What happens to the machines.
            moved: Channels that the training may move.
            propose: Sign with the trainer's key.
            changed: ``bundle``: a function that alters the candidate before it is handed in; ``plan``: more
                of its run's plan.
        """
        lake = machine_lake(self.settings.lake_root)
        ProfileRegistry(lake).register(unhurried())
        DeviceRegistry(lake).register(
            [
                DeviceRecord(name(d), "machine", "hall", "default", "x86", f"key-{d}", "PEM")
                for d in range(DEVICES)
            ]
        )
        land(lake, telemetry=self._telemetry(story))
        cut = CutStore(lake).pin(PIN)
        end = self.start + timedelta(seconds=SPAN.stop)
        selection = RowSelection(MACHINE, self.start, end, cut.created)
        with connect(self.settings.lake_root, PIN, comments=False) as con:
            training_set = training_rows(con, selection)
        lineage = LINEAGE.model_copy(update={"cut": cut.id, "pin": PIN, "known_at": selection.known_at})
        bundle = build_candidate(MACHINE, training_set.rows, CHAMPION, moved, lineage, 1, 1)
        bundle = changed.get("bundle", lambda b: b)(bundle)
        sha256, length = store_artifact(self.settings.artifacts, bundle)
        self._hand_over(
            bundle,
            sha256,
            length,
            {
                "wanted": stored_selection(selection).model_dump(mode="json"),
                "moved": list(moved),
                **changed.get("plan", {}),
            },
        )
        if propose:
            self.propose(bundle, sha256)
        return bundle.manifest.version

    def land_late(self, story: Story) -> None:
        """Rows of the same time that reach the lake only now."""
        lake = machine_lake(self.settings.lake_root)
        rows = self._telemetry(story)
        at = rows.schema.get_field_index("boot_id")
        land(
            lake,
            telemetry=rows.set_column(at, rows.schema.field(at), pa.array([2] * rows.num_rows, pa.int64())),
        )

    def write_lineage(self) -> None:
        """Write to the lake which rows made the candidate, as a trainer does."""
        lake = machine_lake(self.settings.lake_root)
        [row] = self.rows(candidates)
        with self.registry.reading() as connection:
            [run] = runs_of(connection, "machine")
        with connect(self.settings.lake_root, PIN, comments=False) as con:
            training_set = training_rows(con, selection_of(MACHINE, run.plan.selection))
        now = datetime.now(UTC)
        append(
            lake,
            CutStore(lake),
            "trainer",
            lambda n: {"training_sets": lineage_rows(run, row["version"], training_set, now, n)},
        )

    def propose(self, bundle: BundleFiles, sha256: str) -> None:
        Proposer(self.settings).propose(bundle.manifest, sha256)

    def state(self) -> str:
        return self.rows(candidates)[-1]["state"]

    def verdicts(self) -> dict[str, dict[str, Any]]:
        return {row["gate"]: row for row in self.rows(gate_verdicts)}

    def steps(self) -> list[str]:
        return [row["step"] for row in self.rows(outbox)]

    def rows(self, of: Any) -> list[dict[str, Any]]:
        with self.registry.reading() as connection:
            return [dict(r) for r in connection.execute(select(of)).mappings()]

    def set(self, table: Any, **values: Any) -> None:
        """Change all rows of a table without any process knowing."""
        with self.registry.transaction() as connection:
            connection.execute(update(table).values(**values))

    def _telemetry(self, story: Story) -> pa.Table:
        found = features(story, SPAN, DEVICES)
        seqs = list(SPAN) * DEVICES
        at = [self.start + timedelta(seconds=k) for k in seqs]
        return telemetry(
            device_id=np.repeat([name(d) for d in range(DEVICES)], len(SPAN)),
            boot_id=[1] * len(seqs),
            seq=seqs,
            event_time=at,
            known_at=at,
            decision=["none"] * len(seqs),
            reasons=[int(Reason.SAMPLE)] * len(seqs),
            inclusion_probability=[0.5] * len(seqs),
            model_version=[CHAMPION.manifest.version] * len(seqs),
            **{f: found[:, :, i].ravel().astype(np.float32) for i, f in enumerate(MACHINE.feature_names)},
        )

    def _hand_over(self, bundle: BundleFiles, sha256: str, length: int, cause: dict[str, Any]) -> None:
        now, manifest = time.time(), bundle.manifest
        run = {
            "run_id": LINEAGE.run_id, "family": "machine", "profile": "machine", "state": "trained",
            "reason": "drift", "kind": "anomaly", "verdicts": [], "cause": cause, "seed": 1,
            "cut": CutStore(machine_lake(self.settings.lake_root)).resolve(PIN).id, "pin": PIN,
            "version": manifest.version, "detail": "", "requested_by": "alex", "created_at": now,
            "updated_at": now,
        }  # fmt: skip
        candidate = {
            "version": manifest.version, "family": "machine", "major": 1, "kind": "anomaly",
            "run_id": LINEAGE.run_id, "champion": CHAMPION.manifest.version, "sha256": sha256,
            "length": length, "manifest": manifest.model_dump(mode="json"), "state": "trained", "detail": "",
            "created_at": now, "updated_at": now,
        }  # fmt: skip
        with self.registry.transaction() as connection:
            connection.execute(insert(runs).values(**run))
            connection.execute(insert(candidates).values(**candidate))

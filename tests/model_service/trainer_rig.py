"""A trainer with real surroundings: registry, trust repository, lake."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import select

from feature_store.lake import Lake
from model_service.registry.database import Registry
from model_service.registry.registry_tables import candidates, outbox, runs
from model_service.settings import ModelSettings
from model_service.training.scheduler import TrainingScheduler
from model_service.trust import ceremony
from schemas.cohorts import SaltedShare
from schemas.instants import utc_now


class Clock:
    """The wall clock in UTC, put forward by ``ahead``."""

    def __init__(self) -> None:
        self.ahead = timedelta(0)

    def __call__(self) -> datetime:
        return utc_now() + self.ahead


class TrainerRig:
    """The trainer's process, turn by turn."""

    def __init__(self, folder: Path, lake_root: Path) -> None:
        self.settings = ModelSettings(root=folder / "models", lake_root=lake_root, tick_s=0.02)
        ceremony.init(self.settings, ["machine"], {"default": SaltedShare(share=0.3)})
        self.registry = Registry.open(self.settings.database_url, self.settings.root)
        self.clock = Clock()
        self.open()

    def open(self) -> None:
        """Start the scheduler, as after a restart of the process."""
        lake = Lake.open(self.settings.lake_root)
        self.scheduler = TrainingScheduler(self.settings, self.registry, lake, self.clock)

    def close(self) -> None:
        """Close the registry."""
        self.registry.close()

    def tick(self) -> None:
        """One turn of every job of the process."""
        self.scheduler.poll()
        self.scheduler.work()
        self.scheduler.renew_proposals()

    def rows(self, table: Any = runs) -> list[dict[str, Any]]:
        with self.registry.reading() as connection:
            return [dict(r) for r in connection.execute(select(table)).mappings()]

    def states(self) -> list[str]:
        return [r["state"] for r in self.rows()]

    def candidates(self) -> list[dict[str, Any]]:
        return self.rows(candidates)

    def steps(self) -> list[str]:
        return [r["step"] for r in self.rows(outbox)]

    def execute(self, statement: Any) -> None:
        with self.registry.transaction() as connection:
            connection.execute(statement)

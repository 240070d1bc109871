"""Keeps the lake's catalog at its newest cut, in a thread beside a worker: no commit waits for it."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path

from feature_store.catalog import CATALOG, refresh_catalog
from feature_store.cut_store import CutStore
from feature_store.lake import Lake
from schemas.errors import PipelineError

log = logging.getLogger(__name__)

REST_S = 0.5
"""Between two attempts, whatever became of the first."""


class CatalogThread:
    """The catalog as its worker sees it. Nothing here raises: rows land and queries run without it, too.

    A catalog is dear to build, and every worker of a lake builds the same. So the thread waits until the one
    that lies there is old enough, whoever built it.

    Args:
        root: The lake's folder.
        every_s: Least age of a catalog that is replaced.
    """

    def __init__(self, root: Path, every_s: float) -> None:
        self._lake, self._every_s = Lake.open(root), every_s
        self._cuts = CutStore(self._lake)
        self._asked = threading.Event()
        self._building = threading.Lock()
        self._shown: int | None = None
        self._warned = ""
        self._thread = threading.Thread(target=self._run, name="catalog", daemon=True)

    def ask(self) -> None:
        """Have the newest cut shown once it is due; returns at once."""
        if self._thread.ident is None:
            self._thread.start()
        self._asked.set()

    def show(self) -> None:
        """Show the newest cut now, for instance because this worker stops."""
        with self._building:
            newest = max(self._cuts.ids(), default=0)  # users' jobs record cuts too
            if newest == self._shown:
                return
            try:
                refresh_catalog(self._lake)
            except (PipelineError, OSError) as exc:
                self._warn((exc.strerror or str(exc)) if isinstance(exc, OSError) else str(exc))
            else:
                self._shown, self._warned = newest, ""

    def _run(self) -> None:
        rest = threading.Event().wait
        while self._asked.wait():
            self._asked.clear()
            try:
                while (left := self._every_s - self._age_s()) > 0:
                    rest(left)
                self.show()
            except Exception:
                log.exception("unexpected error with the catalog; retrying")
            rest(REST_S)

    def _age_s(self) -> float:
        """Age of the catalog; without end where there is none, or the clock was set back."""
        try:
            age = time.time() - (self._lake.root / CATALOG).stat().st_mtime
        except OSError:
            return float("inf")
        return age if age >= 0 else float("inf")

    def _warn(self, problem: str) -> None:
        if problem != self._warned:
            log.warning("catalog failed, and is tried again when it is due: %s", problem)
        self._warned = problem

"""The catalog beside a worker: at its newest cut soon, built once for all workers, needed by no commit."""

import os
import resource
import shutil
import subprocess
import sys

import duckdb
import pytest

from feature_store.catalog import CATALOG, refresh_catalog
from feature_store.cut_store import CutStore
from stream_processors.catalog_thread import CatalogThread
from stream_processors.settings import StreamSettings
from stream_processors.worker import Housekeeping
from tests.feature_store.lakes import commit, two_tables
from tests.simulators.line import make_checkpoint, make_lake
from tests.simulators.messages import SimDevice, SimDirectory, SimLog
from tests.waiting import wait_until

LONG_S = 10**6


class Landing:
    """A worker's handler on a lake, and its catalog thread."""

    def __init__(self, root, every_s: float) -> None:
        self.lake, self.device, self.log = make_lake(root), SimDevice("machine-00"), SimLog()
        self.thread = CatalogThread(root, every_s)
        cuts = CutStore(self.lake)
        checkpoint = make_checkpoint(self.lake, SimDirectory(self.device))
        settings = StreamSettings(lake_root=root)
        self.worker = Housekeeping(checkpoint, self.lake, cuts, settings, catalog=self.thread)
        self.worker.open(0)
        self.landed = 0

    def land(self) -> None:
        self.worker.process({0: [self.log.append(self.device.rows(self.landed, 1))]})
        self.landed += 1

    def shown(self) -> int:
        path = self.lake.root / CATALOG
        with duckdb.connect(path, read_only=True) as connection:
            connection.execute(f"SET file_search_path = '{path.parent}'")
            return connection.execute("SELECT count(*) FROM telemetry").fetchone()[0]


@pytest.fixture
def catalog(tmp_path):
    return tmp_path / "lake" / CATALOG


def test_what_landed_is_shown_soon_although_nothing_more_lands(tmp_path, catalog):
    landing = Landing(tmp_path / "lake", every_s=0.0)
    for _ in range(3):
        landing.land()
    wait_until(catalog.exists, what="the first catalog")
    wait_until(lambda: landing.shown() == landing.landed, what="the newest rows in the catalog")


def test_a_young_catalog_of_another_worker_is_left_alone_and_a_worker_that_stops_shows_its_rows(
    tmp_path, catalog
):
    landing = Landing(tmp_path / "lake", LONG_S)
    refresh_catalog(landing.lake)
    landing.land()
    assert landing.shown() == 0
    landing.worker.close(0)
    assert landing.shown() == landing.landed


def test_a_catalog_that_is_old_is_replaced_without_a_word_of_the_handler(tmp_path, catalog):
    landing = Landing(tmp_path / "lake", LONG_S)
    refresh_catalog(landing.lake)
    os.utime(catalog, (0, 0))
    landing.land()
    wait_until(lambda: landing.shown() == landing.landed, what="the newest rows in the catalog")


def test_rows_land_where_no_catalog_can_be_written_and_it_is_said_once(tmp_path, catalog, caplog):
    landing = Landing(tmp_path / "lake", every_s=0.0)
    (catalog / "in the way").mkdir(parents=True)
    for _ in range(3):
        landing.land()
        landing.thread.show()
    assert sum("catalog failed" in line for line in caplog.messages) == 1
    shutil.rmtree(catalog)
    wait_until(catalog.exists, what="the catalog, once it can be written")
    assert landing.shown() == landing.landed


@pytest.mark.parametrize("room", [0.01, 0.3, 0.45, 0.6, 0.99])
def test_a_disk_that_fills_while_the_catalog_is_written_leaves_the_one_before_it(
    tmp_path, catalog, caplog, room
):
    landing = Landing(tmp_path / "lake", LONG_S)
    landing.land()
    landing.thread.show()
    landing.land()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(room * catalog.stat().st_size), hard))
    try:
        landing.thread.show()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert any("catalog failed" in line for line in caplog.messages)
    assert landing.shown() == 1
    landing.worker.close(0)
    assert landing.shown() == 2


def test_a_worker_stops_in_order_where_no_cut_can_be_read(tmp_path, caplog):
    landing = Landing(tmp_path / "lake", LONG_S)
    landing.land()
    cuts = landing.lake.root / "_cuts"
    shutil.rmtree(cuts)
    cuts.write_bytes(b"")
    landing.worker.close(0)
    assert any("catalog failed" in line for line in caplog.messages)


ENDS_WHILE_IT_BUILDS = """
import sys
from pathlib import Path
from stream_processors.catalog_thread import CatalogThread
root = Path(sys.argv[1])
CatalogThread(root, 0.0).ask()
while not any(root.glob(".tmp-*")):
    pass
"""


def test_a_process_that_ends_while_its_catalog_is_built_ends_in_order_and_leaves_nothing(catalog):
    lake = two_tables(catalog.parent)
    commit(lake, CutStore(lake), "task-00", 0, [1])
    ended = subprocess.run(
        [sys.executable, "-c", ENDS_WHILE_IT_BUILDS, catalog.parent], capture_output=True, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert not list(catalog.parent.glob(".tmp-*"))

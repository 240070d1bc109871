"""The catalog beside a worker: at its newest cut soon, built once for all workers, needed by no commit."""

import os
import shutil

import duckdb
import pytest

from feature_store.catalog import CATALOG, refresh_catalog
from feature_store.cut_store import CutStore
from stream_processors.catalog_thread import CatalogThread
from stream_processors.settings import StreamSettings
from stream_processors.worker import Housekeeping
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

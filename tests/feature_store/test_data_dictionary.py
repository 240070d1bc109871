"""The data dictionary is generated from the schemas."""

from schemas.data_dictionary import PAGE, page
from schemas.tables import FIXED_TABLES
from schemas.view_specs import DERIVED_VIEWS


def test_the_committed_page_is_current():
    assert PAGE.read_text(encoding="utf-8") == page(), "run: python -m schemas.data_dictionary"


def test_every_table_and_view_is_described():
    shown = page()
    for name in (*(t.name for t in FIXED_TABLES), *(v.name for v in DERIVED_VIEWS), "telemetry"):
        assert f"### {name}\n" in shown

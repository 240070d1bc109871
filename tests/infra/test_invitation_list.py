"""Laws of lists of devices to invite."""

import pytest

from infra.invitation_list import InvitedDevice, listed, numbered
from schemas.errors import OperatorError

USUAL = InvitedDevice("", "pump", "local", "default", "simulated", "")


def test_numbered_devices_sort_as_they_count():
    names = [one.device_id for one in numbered(InvitedDevice("pump", "p", "s", "g", "h", ""), 10)]
    assert names == sorted(names)
    assert (names[0], names[-1], len(names)) == ("pump-01", "pump-10", 10)


def test_a_row_says_what_differs_and_the_rest_is_as_usual(tmp_path):
    file = tmp_path / "devices.csv"
    file.write_text("device_id,site,profile\np-1,north,\np-2,,machine\n\n")
    assert [(d.device_id, d.site, d.profile) for d in listed(file, USUAL)] == [
        ("p-1", "north", "pump"),
        ("p-2", "local", "machine"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name\np-1\n", "the first line must name columns"),
        ("device_id,colour\np-1,red\n", "the first line must name columns"),
        ("device_id\n", "names no device"),
        ("device_id\np-1\np-1\n", "p-1 is named twice"),
        ("device_id,site\n,north\n", "line 2: no device_id"),
        ("device_id\np-1,north\n", "line 2: more fields than columns"),
    ],
)
def test_a_list_that_is_wrong_is_refused_whole(tmp_path, text, message):
    (tmp_path / "d.csv").write_text(text)
    with pytest.raises(OperatorError, match=message):
        listed(tmp_path / "d.csv", USUAL)

"""Settings of folders: what is no folder of this machine is refused at the start."""

import pytest
from pydantic import ValidationError

from feature_store.sql import LakeSettings
from infra.settings import StackSettings
from model_service.settings import ModelSettings
from model_service.settings import load_settings as model_settings
from schemas.errors import OperatorError
from stream_processors.settings import StreamSettings
from stream_processors.settings import load_settings as stream_settings

MADE = {
    "stream worker": lambda path: StreamSettings(lake_root=path).lake_root,
    "model service": lambda path: ModelSettings(root="models", lake_root=path).lake_root,
    "model service's root": lambda path: ModelSettings(root=path, lake_root="lake").root,
    "stack": lambda path: StackSettings(state_dir=path).state_dir,
    "queries": lambda path: LakeSettings(EDGELOOP_STATE_DIR=path).state_dir,
}


@pytest.mark.parametrize("whose", MADE)
@pytest.mark.parametrize("address", ["s3://bucket/lake", "gs://b", "https://host/x", "file:///tmp/x"])
def test_an_address_of_an_object_store_makes_no_folder_of_that_name(whose, address):
    with pytest.raises(ValidationError, match="not a folder of this machine"):
        MADE[whose](address)


@pytest.mark.parametrize("whose", MADE)
@pytest.mark.parametrize("path", ["/tmp/lake", "lake", "../a:b/c", "C/d"])
def test_a_folder_is_a_folder(whose, path):
    assert str(MADE[whose](path)) == path


@pytest.mark.parametrize(
    ("load", "variables", "told"),
    [
        (stream_settings, {"STREAM_LAKE_ROOT": "lake", "STREAM_LINGER_S": "-1"}, "linger_s: Input should be"),
        (model_settings, {"MODEL_ROOT": "m", "MODEL_LAKE_ROOT": "l", "MODEL_TICK_S": "x"}, "tick_s: Input"),
    ],
    ids=["stream worker", "model service"],
)
def test_a_value_that_does_not_fit_is_one_line_that_names_it(monkeypatch, load, variables, told):
    """A worker with such a value ended with a traceback whose last line was a link."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(OperatorError, match=told) as caught:
        load()
    assert "\n" not in str(caught.value)

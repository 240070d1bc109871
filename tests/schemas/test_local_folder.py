"""Settings of folders: what is no folder of this machine is refused at the start."""

import pytest
from pydantic import ValidationError

from feature_store.sql import LakeSettings
from infra.settings import StackSettings
from model_service.settings import ModelSettings
from stream_processors.settings import StreamSettings

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

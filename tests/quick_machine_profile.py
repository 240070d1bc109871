"""`machine` under the timings of `machine_demo`, for laws about a loop that lasts seconds."""

from schemas.profile import Profile
from schemas.profile_file import find_profile

AS_BEFORE = {
    "name": "machine",
    "description": "Rotating machine: bearing vibration, housing temperature, motor current.",
}
"""What `machine` was called while its timings were those of a demo."""


def quick_machine_profile() -> Profile:
    """The shipped machine by name, features, model and rules; periods, windows and soaks of a demo."""
    return find_profile("machine_demo").model_copy(update={"name": "machine"})

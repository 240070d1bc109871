"""`machine` under the timings of `machine_demo`, for laws about a loop that lasts seconds."""

from schemas.profile import Profile
from schemas.profile_file import find_profile


def quick_machine_profile() -> Profile:
    """The shipped machine by name, features, model and rules; periods, windows and soaks of a demo."""
    return find_profile("machine_demo").model_copy(update={"name": "machine"})

"""The state of a task's jobs, of which each commit changes a little: a new version costs what it changes.

The newest version holds one dictionary a job; an older one holds what was different before, and gets the
dictionary back where it is asked again (H. Baker, "Shallow binding makes functional arrays fast", 1991). So
a commit, which never looks back, copies nothing, and a trial of a batch in parts may look back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


class _Place:
    """Where the keys of one version are.

    Attributes:
        data: They themselves; None: they are in the place of a newer version.
        newer: That place.
        undo: What was different in it; None: the key was not there.
    """

    __slots__ = ("data", "newer", "undo")

    def __init__(self, data: dict[str, Any]) -> None:
        self.data: dict[str, Any] | None = data
        self.newer: _Place | None = None
        self.undo: Mapping[str, Any] = {}

    def move_to(self, newer: _Place, data: dict[str, Any], changes: Mapping[str, Any]) -> None:
        """Change the data, which are this place's, and leave them to another; only what differs stays."""
        self.undo = {key: data.get(key) for key in changes}
        for key, value in changes.items():
            if value is None:
                data.pop(key, None)
            else:
                data[key] = value
        self.data, self.newer = None, newer
        newer.data, newer.newer, newer.undo = data, None, {}


class KeyVersion(Mapping[str, Any]):
    """Keys of one job as of one commit; no value is None. Used from one thread."""

    __slots__ = ("_place",)

    def __init__(self, data: dict[str, Any]) -> None:
        self._place = _Place(data)

    def changed(self, changes: Mapping[str, Any]) -> KeyVersion:
        """The version after these changes; None removes a key."""
        data, newer = self._own(), KeyVersion({})
        self._place.move_to(newer._place, data, changes)
        return newer

    def _own(self) -> dict[str, Any]:
        """The dictionary, made to hold what this version holds."""
        if self._place.data is not None:
            return self._place.data
        behind, at = list[_Place](), self._place
        while at.newer is not None:
            behind.append(at)
            at = at.newer
        data = at.data or {}
        for older in reversed(behind):
            at.move_to(older, data, older.undo)
            at = older
        return data

    def __getitem__(self, key: str) -> Any:
        return self._own()[key]

    def get(self, key: str, default: Any = None) -> Any:
        """The key's value, or another."""
        return self._own().get(key, default)

    def __contains__(self, key: object) -> bool:
        return key in self._own()

    def __iter__(self) -> Iterator[str]:
        return iter(self._own())

    def __len__(self) -> int:
        return len(self._own())

    def __repr__(self) -> str:
        return repr(self._own())

    def __reduce__(self) -> tuple[type[KeyVersion], tuple[dict[str, Any]]]:
        return KeyVersion, (dict(self._own()),)


class JobKeys(Mapping[str, Any]):
    """State keys of all jobs of a task, each with its job's prefix (``ingest/...``)."""

    __slots__ = ("_jobs",)

    def __init__(self, jobs: Mapping[str, KeyVersion]) -> None:
        self._jobs = jobs

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> JobKeys:
        """These keys; a mapping of another kind is copied."""
        if isinstance(state, cls):
            return state
        jobs: dict[str, dict[str, Any]] = {}
        for key, value in state.items():
            if value is not None:
                job, _, own = key.partition("/")
                jobs.setdefault(job, {})[own] = value
        return cls({job: KeyVersion(keys) for job, keys in jobs.items()})

    def changed(self, changes: Mapping[str, Any]) -> JobKeys:
        """The keys after these changes; None removes a key."""
        by_job: dict[str, dict[str, Any]] = {}
        for key, value in changes.items():
            job, _, own = key.partition("/")
            by_job.setdefault(job, {})[own] = value
        moved = {job: self.of_job(job).changed(own) for job, own in by_job.items()}
        return JobKeys({**self._jobs, **moved})

    def of_job(self, job: str) -> KeyVersion:
        """One job's keys, without its prefix."""
        found = self._jobs.get(job)
        return KeyVersion({}) if found is None else found

    def __getitem__(self, key: str) -> Any:
        job, slash, own = key.partition("/")
        if not slash or job not in self._jobs:
            raise KeyError(key)
        return self._jobs[job][own]

    def __iter__(self) -> Iterator[str]:
        return (f"{job}/{own}" for job, keys in self._jobs.items() for own in keys)

    def __len__(self) -> int:
        return sum(len(keys) for keys in self._jobs.values())

    def __repr__(self) -> str:
        return repr(dict(self))

    def __reduce__(self) -> tuple[type[JobKeys], tuple[dict[str, KeyVersion]]]:
        return JobKeys, (dict(self._jobs),)

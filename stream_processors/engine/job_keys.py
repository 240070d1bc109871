"""The state of a task's jobs, of which each commit changes a little: a new version costs what it changes.

The newest version holds one dictionary a job; an older one holds what was different before, and gets the
dictionary back where it is asked again (H. Baker, "Shallow binding makes functional arrays fast", 1991). So
a commit, which never looks back, copies nothing, and a trial of a batch in parts may look back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


class KeyVersion(Mapping[str, Any]):
    """Keys of one job as of one commit; no value is None. Used from one thread."""

    __slots__ = ("_data", "_newer", "_undo")

    def __init__(self, data: dict[str, Any]) -> None:
        self._data: dict[str, Any] | None = data
        self._newer: KeyVersion | None = None
        self._undo: Mapping[str, Any] = {}

    def changed(self, changes: Mapping[str, Any]) -> KeyVersion:
        """The version after these changes; None removes a key."""
        data = self._own()
        undo = {key: data.get(key) for key in changes}
        _apply(data, changes)
        newer = KeyVersion(data)
        self._data, self._newer, self._undo = None, newer, undo
        return newer

    def _own(self) -> dict[str, Any]:
        """The dictionary, made to hold what this version holds."""
        behind: list[KeyVersion] = []
        at = self
        while at._newer is not None:
            behind.append(at)
            at = at._newer
        for older in reversed(behind):
            data = at._data
            assert data is not None  # noqa: S101  (only the newest has no newer one)
            redo = {key: data.get(key) for key in older._undo}
            _apply(data, older._undo)
            older._data, older._newer, older._undo = data, None, {}
            at._data, at._newer, at._undo = None, older, redo
            at = older
        assert self._data is not None  # noqa: S101
        return self._data

    def __getitem__(self, key: str) -> Any:
        return (self._data if self._data is not None else self._own())[key]

    def get(self, key: str, default: Any = None) -> Any:
        """The key's value, or another."""
        return (self._data if self._data is not None else self._own()).get(key, default)

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


def _apply(data: dict[str, Any], changes: Mapping[str, Any]) -> None:
    for key, value in changes.items():
        if value is None:
            data.pop(key, None)
        else:
            data[key] = value

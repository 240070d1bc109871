"""Trials of new models in child processes: one child per artifact, shared by the devices that try it now.

Only threads of this module wait for a child. The sensing loop puts a window into a queue and goes on; a
window that does not fit is left out and counted.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edge_producer.model_switch import ScoredWindow
from edge_producer.updates.fault_question import FaultQuestion
from edge_producer.updates.fault_trial import FaultTrial
from edge_producer.updates.shadow_comparison import ShadowComparison
from edge_producer.window import Window
from schemas.instants import to_us
from schemas.profile import Profile

log = logging.getLogger(__name__)

QUEUED = 256
"""Windows that may wait for a child, over all its devices."""
END_S = 2.0
READY_S = 60.0
"""A trial process that takes longer to load its model means a busy device, not a bad model."""
ANSWER_S = 10.0
"""No answer for so long, and for ten hops, means a model that hangs."""
INPUT_S = 30.0
"""A trial that gets no window for so long, and four hops, after ``READY_S`` is deferred."""

FAULTS_S = 60.0
"""No answer on superposed faults for so long means a busy device."""

TrialState = Literal["wait", "pass", "fail", "defer"]


AskFaults = Callable[[], FaultQuestion | str]
"""The question, once enough windows have been compared; or why nothing can be asked."""


class TrialChild:
    """One child process, and the two threads at its pipes.

    Args:
        bundle: Folder of the model.
        profile: Profile of the devices.

    Attributes:
        ready: The model is loaded, and its golden vectors hold.
        failure: Why the model cannot be tried; empty if it can.
        dead: The process has ended.
    """

    def __init__(self, bundle: Path, profile: Profile) -> None:
        self.ready = False
        self.failure = ""
        self.dead = False
        self._queue: queue.SimpleQueue[tuple[bytes, bytes] | None] = queue.SimpleQueue()
        self._feeds: dict[str, TrialFeed] = {}
        environment = {**os.environ, "ORT_DISABLE_TELEMETRY": "1", "PYTHONUNBUFFERED": "1"}
        command = [sys.executable, "-m", "edge_producer.updates.trial_process"]
        self._process = subprocess.Popen(  # noqa: S603  (our own module)
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )
        request = {"bundle": str(bundle), "profile": profile.model_dump(mode="json")}
        self._queue.put((json.dumps(request).encode() + b"\n", b""))
        threading.Thread(target=self._write_windows, name="trial-feed", daemon=True).start()
        threading.Thread(target=self._read_answers, name="trial-listen", daemon=True).start()

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def failure_reason(self) -> str:
        """Why the trial has failed in this child; empty while it has not."""
        if self.failure:
            return self.failure
        return f"the trial process ended with code {self._process.poll()}" if self.dead else ""

    def add_feed(self, feed: TrialFeed) -> None:
        """Send a device's answers to its feed, and wake it when the child is ready or dead."""
        self._feeds[feed.device_id] = feed

    def offer(self, device_id: str, number: int, window: Window) -> bool:
        """Have a window scored; False where too many wait or the child is dead. Never blocks."""
        if self._queue.qsize() >= QUEUED or self.dead:
            return False
        samples = window.samples
        head = {"device": device_id, "no": number, "shape": samples.shape, "ends_us": [to_us(window.end)]}
        self._queue.put((json.dumps(head).encode() + b"\n", samples.astype("<f4", copy=False).tobytes()))
        return True

    def ask(self, device_id: str, question: FaultQuestion) -> None:
        """Have faults superposed on a device's windows; the answer goes to its feed. Never blocks."""
        windows = np.stack([kept.samples for kept in question.windows]).astype("<f4")
        ends = [kept.end_us for kept in question.windows]
        head = {"device": device_id, "shape": windows.shape, "active": str(question.active), "ends_us": ends}
        line = json.dumps({**head, "reference": question.reference})
        self._queue.put((line.encode() + b"\n", windows.tobytes()))

    def end(self) -> None:
        """End the process, by force if it does not end with its input."""
        self._queue.put(None)
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _write_windows(self) -> None:
        assert self._process.stdin is not None  # noqa: S101  (it is a pipe)
        with suppress(OSError), self._process.stdin as pipe:  # the reading thread notices that the child died
            while (item := self._queue.get()) is not None:
                pipe.write(item[0] + item[1])
                pipe.flush()

    def _read_answers(self) -> None:
        assert self._process.stdout is not None  # noqa: S101  (it is a pipe)
        with self._process.stdout as lines:
            for line in lines:
                try:
                    self._take_answer(json.loads(line))
                except (ValueError, KeyError, TypeError):
                    self.failure = "the trial process gave an answer that cannot be read"
        self._process.wait()
        self._queue.put(None)
        self.dead = True
        self._wake_all()

    def _take_answer(self, answer: dict[str, Any]) -> None:
        if "ready" in answer or "failed" in answer:
            self.ready, self.failure = "ready" in answer, str(answer.get("failed", ""))
            self._wake_all()
            return
        if "outside" in answer:
            self.failure = f"the model gave a score of {str(answer['outside'])[:40]}, outside [0, 1]"
            self._wake_all()
            return
        feed = self._feeds.get(answer["device"])
        if feed is not None and "faults" in answer:
            feed.compared_on_faults(FaultTrial(**answer["faults"]))
        elif feed is not None:
            score, took_s = answer["score"], float(answer["took_s"])
            feed.answered(int(answer["no"]), score, took_s, alarm=bool(answer["alarm"]))

    def _wake_all(self) -> None:
        for feed in list(self._feeds.values()):
            feed.wake()


class TrialFeed:
    """One device's part in a trial: feeds its windows to the child, and compares the answers with its scores.

    Args:
        device_id: Sent with each window, because devices share a child.
        child: Scores the windows.
        comparison: What to count on from.
        skip: Answers not counted at the beginning, while a generic model warms up.
        wake: Called when there is a new answer or the child changed its state; must not block.
        monotonic: Steady seconds, any origin; read by several threads.
        ask_faults: Asked once the windows were good enough; None: no faults are superposed.

    Attributes:
        comparison: The newest counts; a new object with each answer.
        faults: What both models detect of superposed faults; None: not answered yet.
        offered: Windows handed to the child.
        dropped: Windows left out because too many waited.
    """

    def __init__(
        self,
        device_id: str,
        child: TrialChild,
        comparison: ShadowComparison,
        skip: int,
        wake: Callable[[], None],
        monotonic: Callable[[], float],
        ask_faults: AskFaults | None = None,
    ) -> None:
        self.device_id = device_id
        self.comparison = comparison
        self.faults: FaultTrial | None = None
        self._ask_faults = ask_faults
        self._asked_s: float | None = None
        self.dropped = 0
        self.offered = 0
        self.wake = wake
        self._monotonic = monotonic
        self._last_s = monotonic()
        """When the last answer came, or the first window was handed over that still waits for one."""
        self.child = child
        self._begun_s = monotonic()
        self._skip = skip
        self._waiting: dict[int, ScoredWindow] = {}
        child.add_feed(self)

    def progress(self, wanted: int) -> tuple[TrialState, str]:
        """The trial's state, and the reason if it fails or is deferred.

        Args:
            wanted: Windows to compare.
        """
        now, hop_s = self._monotonic(), self.comparison.hop_s
        if self.child.failure_reason:
            return "fail", self.child.failure_reason
        state, reason = self.comparison.judge(wanted, early=False)
        if state != "wait":
            return self._on_faults(now) if state == "pass" else (state, reason)
        if not self.child.ready:
            late = now - self._begun_s > READY_S
            return ("defer" if late else "wait"), f"the trial process was not ready within {READY_S:.0f} s"
        if self._waiting and now - self._last_s > max(ANSWER_S, 10 * hop_s):
            return "fail", "the model does not answer"
        if not self.offered and now - self._begun_s > READY_S + INPUT_S + 4 * hop_s:
            return "defer", "no live windows came to try the model on"
        return "wait", ""

    def to_status(self) -> dict[str, Any]:
        """For the status file."""
        faults = {} if self.faults is None else {"faults": self.faults.says}
        return {**self.comparison.to_status(), **faults}

    def _on_faults(self, now: float) -> tuple[TrialState, str]:
        """As ``progress``, once the live windows were good enough."""
        if self._ask_faults is None:
            return "pass", ""
        if self.faults is None and self._asked_s is None:
            self._asked_s, question = now, self._ask_faults()
            if isinstance(question, str):
                self.faults = FaultTrial(not_tried=question)
            else:
                self.child.ask(self.device_id, question)
        if self.faults is not None:
            return self.faults.judge()
        late = self._asked_s is not None and now - self._asked_s > FAULTS_S
        return ("defer" if late else "wait"), f"the trial process did not try faults within {FAULTS_S:.0f} s"

    def compared_on_faults(self, faults: FaultTrial) -> None:
        """Take the child's answer on superposed faults; the comparison counts them as known to be faulty."""
        self.faults = faults
        self.comparison = self.comparison.with_faulty(
            faults.faulty, old=faults.old_detected, new=faults.new_detected, both=faults.both_detected
        )
        self.wake()

    def observe(self, window: Window, outcome: ScoredWindow) -> None:
        """Hand a window to the child, if it is ready, keeps up and has more to compare."""
        if not self.child.ready or self._asked_s is not None:
            return
        self.offered += 1
        if not self._waiting:
            self._last_s = self._monotonic()
        self._waiting[self.offered] = outcome
        if not self.child.offer(self.device_id, self.offered, window):
            del self._waiting[self.offered]
            self.dropped += 1

    def answered(self, number: int, score: float | None, took_s: float, *, alarm: bool) -> None:
        """Compare the child's answer with the scores of the running model."""
        if number not in self._waiting:
            return
        running = self._waiting.pop(number)
        self._last_s = self._monotonic()
        if self._skip:
            self._skip -= 1
        else:
            self.comparison = self.comparison.add(
                running.score, score, took_s, running.took_s, (running.alarm, alarm)
            )
        self.wake()


class Trials:
    """The child processes of one edge process, by artifact."""

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self._lock = threading.Lock()
        self._children: dict[str, tuple[TrialChild, int]] = {}

    def join(self, key: str, bundle: Path) -> TrialChild:
        """The child that tries an artifact; a new one where there is none or it has died."""
        with self._lock:
            child, users = self._children.get(key, (None, 0))
            if child is None or child.dead:
                child, users = TrialChild(bundle, self._profile), 0
            self._children[key] = (child, users + 1)
            return child

    def leave(self, key: str, child: TrialChild) -> None:
        """Take one device off; the last one ends the child."""
        with self._lock:
            known, users = self._children.get(key, (None, 0))
            if known is child and users > 1:
                self._children[key] = (child, users - 1)
                return
            if known is child:
                del self._children[key]
        child.end()


class ShadowWatch:
    """One device's watch over a new model in force; the earlier model scores the same windows in shadow.

    Args:
        comparison: What to count on from.
        wake: Called after each window; must not block.
    """

    def __init__(self, comparison: ShadowComparison, wake: Callable[[], None]) -> None:
        self.comparison = comparison
        self._wake = wake

    def observe(self, _window: Window, outcome: ScoredWindow) -> None:
        """Count a window."""
        shadow_s = None if outcome.shadow_score is None else outcome.shadow_took_s
        self.comparison = self.comparison.add(
            outcome.shadow_score, outcome.score, outcome.took_s, shadow_s, outcome.alarms
        )
        self._wake()

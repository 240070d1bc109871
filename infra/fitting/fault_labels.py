"""Labelled faults of a fit as signed labels in the lake, so that the trainer has them, too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import partial

import numpy as np
from numpy.typing import NDArray

from feature_store.lake import Lake
from infra.fitting.history_spans import HistorySpan
from infra.labels.label_file import make_label
from infra.labels.labeller import SIGNER, Labeller
from infra.settings import StackSettings
from infra.stack.running import line_only, running_stack
from infra.stack.stack_file import stack_troubles
from model_service import first_model
from schemas.events import Label
from schemas.instants import from_us, utc_now

SOURCE = "model-fit"


def land_labels(
    settings: StackSettings,
    devices: Sequence[str],
    faults: Sequence[HistorySpan],
    progress: Callable[[str], None],
) -> int:
    """Sign the labels and wait until they are in the lake; returns how many are new.

    Raises:
        BrokerUnavailableError, StackError: They did not land; a repetition lands the rest.
    """
    labels = fault_labels(devices, faults, utc_now())
    with running_stack(line_only(settings), "model fit", progress) as stack:
        troubles = partial(stack_troubles, settings.state_dir)
        labeller = Labeller(settings.state_dir / "labels", Lake.open(stack.lake_root), troubles)
        outcome = labeller.submit(labels, stack.bootstrap_servers, stack.namespace)
    return len(outcome.new)


def fault_labels(devices: Sequence[str], faults: Sequence[HistorySpan], now: datetime) -> list[Label]:
    """A label for each device and span."""
    made = {}
    for span in faults:
        for device in (d for d in devices if span.device in ("", d)):
            end = from_us(span.end_us) + timedelta(microseconds=int(span.end_us == span.start_us))
            row = {
                "device_id": device,
                "span_start": from_us(span.start_us).isoformat(),
                "span_end": end.isoformat(),
                "label": span.label,
                "source": SOURCE,
            }
            label = make_label(row, now, SIGNER)
            made[label.label_id] = label
    return list(made.values())


def labelled_rows(judged: first_model.JudgedHistory, faults: Sequence[HistorySpan]) -> NDArray[np.bool_]:
    """Faulty rows that the labels hold once they have landed: the window ends within the span, shape (n,)."""
    held = np.zeros(len(judged.end_us), dtype=bool)
    for number, device in enumerate(judged.devices):
        mine = judged.device == number
        for span in faults:
            if span.device in ("", device):
                held |= mine & (judged.end_us > span.start_us) & (judged.end_us <= span.end_us)
    return held & judged.faulty

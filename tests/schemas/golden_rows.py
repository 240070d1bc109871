"""The rows behind the golden bytes of each published schema version."""

from datetime import UTC, datetime

import pyarrow as pa

from schemas.packed_schemas import packed_books_rows, packed_summary_rows
from schemas.profile_file import parse_profile
from schemas.row_schemas import BOOKS_ROWS, SUMMARY_ROWS, telemetry_rows, telemetry_rows_of_wire_1

T = datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)

PROFILE = parse_profile(
    """
    name = "golden"
    [sampling]
    rate_hz = 1.0
    window_samples = 2
    hop_samples = 2
    [[channels]]
    name = "a"
    unit = "A"
    min = 0.0
    max = 1.0
    [features]
    set = "golden"
    [[features.compute]]
    channel = "a"
    kinds = ["mean", "std"]
    """,
    "golden",
)


def rows(schema: pa.Schema, **columns) -> pa.RecordBatch:
    return pa.record_batch([pa.array(columns[f.name], f.type) for f in schema], schema=schema)


SUMMARY = {
    "device_id": ["d"], "boot_id": [7], "model_version": ["m-1"], "featureset": ["golden@1"],
    "feature": ["a_mean"], "period_start": [T], "period_s": [5.0], "part": [0], "n": [3], "n_missing": [1],
    "mean": [0.5], "m2": [0.25], "min": [0.0], "max": [1.0], "sketch": [b"\x01\x02"],
    "bin_counts": [[0, 3, 0]],
}  # fmt: skip
BOOKS = {
    "device_id": ["d"], "boot_id": [7], "period_start": [T], "period_s": [5.0], "model_version": ["m-1"],
    "stratum": ["sample"], "revision": [2], "sensed": [10], "acked": [3], "filtered": [5], "evicted": [1],
    "refused": [0], "pending": [1], "gap": [False], "thinning": [0.5], "feature_means": [[0.5, 0.25]],
    "feature_comoments": [[1.0, 0.0, 1.0]],
}  # fmt: skip

GOLDEN = {
    "telemetry.v1": rows(
        telemetry_rows_of_wire_1(PROFILE),
        device_id=["d", "d"], boot_id=[2**62, 2**62], seq=[0, 1], event_time=[T, T], mono_ns=[1, 2],
        time_quality=[0, 1], a_mean=[0.5, None], a_std=[0.25, 0.125], score=[0.75, None],
        decision=["none", "stop"], reasons=[1, 130], sample_p=[0.05, 0.05],
        inclusion_probability=[0.05, 1.0], model_version=["m-1", "m-1"],
    ),
    "telemetry.v1-wire-2": rows(
        telemetry_rows(PROFILE),
        device_id=["d", "d"], boot_id=[2**62, 2**62], seq=[0, 1], event_time=[T, T], mono_ns=[1, 2],
        time_quality=[0, 1], a_mean=[0.5, None], a_std=[0.25, 0.125], score=[0.75, None],
        decision=["none", "stop"], reasons=[1024, 130], sample_p=[0.05, 0.05],
        inclusion_probability=[None, 1.0], model_version=["m-1", "m-1"],
    ),
    "summaries.v1": rows(SUMMARY_ROWS, **SUMMARY),
    "books.v1": rows(BOOKS_ROWS, **BOOKS),
    "summaries.v1-wire-3": rows(packed_summary_rows(PROFILE), **SUMMARY),
    "books.v1-wire-3": rows(packed_books_rows(), **BOOKS),
}  # fmt: skip

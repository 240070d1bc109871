"""Writes the golden bytes: run once per new schema version, never over an old file.

python -m tests.schemas.make_golden
"""

import json
from pathlib import Path

import pyarrow as pa

from schemas.columns import Column, Kind, RowLayout
from schemas.envelope import Rows, encode_rows
from schemas.packed_arrow import is_packed_schema
from schemas.row_batch import RowBatch
from schemas.row_schemas import fingerprint
from tests.schemas.golden_rows import GOLDEN

FOLDER = Path(__file__).parent / "golden"


def as_sent(batch: pa.RecordBatch) -> Rows:
    """The rows as a device writes them: packed where their schema says so."""
    if not is_packed_schema(batch.schema):
        return batch
    columns = tuple(Column(f.name, Kind(str(f.type)), "", f.nullable) for f in batch.schema)
    layout = RowLayout(columns, {k.decode(): v.decode() for k, v in batch.schema.metadata.items()})
    plain = {
        f.name: (c.cast(pa.int64()) if pa.types.is_timestamp(f.type) else c).to_pylist()
        for f, c in zip(batch.schema, batch.columns, strict=True)
    }
    rows = [dict(zip(plain, row, strict=True)) for row in zip(*plain.values(), strict=True)]
    return RowBatch.from_pylist(rows, layout)


def main() -> None:
    for name, batch in GOLDEN.items():
        path = FOLDER / f"{name}.bin"
        if not path.exists():
            value, raw_bytes = encode_rows(as_sent(batch))
            path.write_bytes(value)
            head = {"schema": fingerprint(batch.schema), "raw_bytes": raw_bytes, "n_rows": batch.num_rows}
            path.with_suffix(".json").write_text(json.dumps(head, indent=1) + "\n")


if __name__ == "__main__":
    main()

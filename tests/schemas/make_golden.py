"""Writes the golden bytes: run once per new schema version, never over an old file.

python -m tests.schemas.make_golden
"""

import json
from pathlib import Path

from schemas.envelope import encode_rows
from schemas.row_schemas import fingerprint
from tests.schemas.golden_rows import GOLDEN

FOLDER = Path(__file__).parent / "golden"


def main() -> None:
    for name, batch in GOLDEN.items():
        path = FOLDER / f"{name}.bin"
        if not path.exists():
            value, raw_bytes = encode_rows(batch)
            path.write_bytes(value)
            head = {"schema": fingerprint(batch.schema), "raw_bytes": raw_bytes, "n_rows": batch.num_rows}
            path.with_suffix(".json").write_text(json.dumps(head, indent=1) + "\n")


if __name__ == "__main__":
    main()

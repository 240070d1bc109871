"""Run by the judge's own Python: ECG that neurokit2 simulates, with and without its noise. Writes an npz.

`python neurokit_hearts.py OUT`. neurokit2 gives no times of its beats: the truth is what its own
detector finds without noise, of the same seed.
"""

import sys

import neurokit2 as nk
import numpy as np

RATE_HZ, SECONDS = 250, 180
NOISES = (0.0, 0.1, 0.3, 0.5, 1.0, 2.0)
HEARTS = ((60, 1), (75, 2), (100, 3))


def main(out: str) -> None:
    """Simulate every heart with every noise."""
    made = {}
    for rate, seed in HEARTS:
        given = {
            "duration": SECONDS,
            "sampling_rate": RATE_HZ,
            "heart_rate": rate,
            "heart_rate_std": 3,
            "method": "ecgsyn",
            "random_state": seed,
        }
        clean = nk.ecg_simulate(noise=0.0, **given)
        _, info = nk.ecg_peaks(nk.ecg_clean(clean, sampling_rate=RATE_HZ), sampling_rate=RATE_HZ)
        made[f"beats_{rate}"] = np.asarray(info["ECG_R_Peaks"]) / RATE_HZ
        made[f"clean_{rate}"] = np.asarray(clean)
        for noise in NOISES:
            made[f"ecg_{rate}_{noise}"] = np.asarray(nk.ecg_simulate(noise=noise, **given))
    np.savez(out, **made)


if __name__ == "__main__":
    main(sys.argv[1])

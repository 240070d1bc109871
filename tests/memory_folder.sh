#!/usr/bin/env bash
# Prints the folder that `make test` keeps its files in: TMPDIR where it is set, else /dev/shm where it and the
# memory have ample room, else /tmp. The tests sync to the disk some ten thousand times, and take minutes longer
# over it; what a power cut leaves of a disk is simulated (simulators/lossy_disk.py).
set -euo pipefail
needed_mb=6000 free_mb=12000

room_mb() { df -Pm "$1" 2>/dev/null | awk 'NR == 2 { print $4 }'; }
memory_mb() { awk '/^MemAvailable/ { print int($2 / 1024) }' /proc/meminfo 2>/dev/null; }

shm_mb=$(room_mb /dev/shm || true) available_mb=$(memory_mb || true)
if [ -n "${TMPDIR:-}" ]; then
    echo "$TMPDIR"
elif [ -w /dev/shm ] && [ "${shm_mb:-0}" -ge "$needed_mb" ] && [ "${available_mb:-0}" -ge "$free_mb" ]; then
    echo /dev/shm
else
    echo /tmp
fi

"""``python -m edge_producer.acting.order_once JSON``: opens an actuator of a user and gives it one order.

The watchdog runs it where the edge process cannot command the fail-safe any more.
"""

from __future__ import annotations

import json
import sys

from edge_producer.acting.action_order import ActionOrder
from edge_producer.acting.called_actuator import ActuatorRequest, load_actuator


def main(said: str) -> int:
    """Give the order that ``ActuatorPlace.command`` wrote; whatever fails is a traceback and an exit code."""
    given = json.loads(said)
    order = ActionOrder(given["device_id"], given["action"], None, given["cause"], given["numbers"])
    actuator = load_actuator(given["entry_point"])(ActuatorRequest(given["options"], given["timeout_s"]))
    try:
        actuator.carry_out(order)
    finally:
        actuator.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

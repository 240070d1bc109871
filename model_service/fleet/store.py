"""What other packages ask of the fleet, in one place: devices, their statuses, their reports."""

from __future__ import annotations

from model_service.fleet.devices import devices_of as devices
from model_service.fleet.devices import revoke_device
from model_service.fleet.reports import record_report, reports_by, reports_of, statuses

__all__ = ["devices", "record_report", "reports_by", "reports_of", "revoke_device", "statuses"]

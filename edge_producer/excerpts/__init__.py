"""Excerpts: raw samples that leave by an approver's permit and the wearer's consent, or not at all."""

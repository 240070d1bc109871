"""Wearables as devices: seeded ECG, pulse and motion of one wearer."""

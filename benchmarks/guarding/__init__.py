"""Rollouts of good and bad models by the real state machine and the real judge, on simulated reports."""

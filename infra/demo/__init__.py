"""The demo: a simulated fleet with three injected changes and a network cut, three scenes, and a report.

The changes are a fault on one machine, a recalibrated sensor on most and wear of many at once. The loop has
to learn the recalibration and nothing else. The scenes show what devices do with a tampered model, a forged
instruction and a model that fails its trial.
"""

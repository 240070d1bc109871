"""How a device changes its model: fetch, verify, try it beside the old one, commit or restore.

Reads and writes its own folder only, talks to the model service through one door, and never delays a window.
"""

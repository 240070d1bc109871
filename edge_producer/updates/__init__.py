"""How a device changes its model: fetch, verify, try it beside the old one, commit or restore.

Reads and writes only its own folder, reaches the model service through one door, and never delays a window.
"""

"""The vocabulary the rooms share: rows, events, topics, profiles, envelopes, errors.

Imports nothing of ours. What two rooms must agree on stands here and nowhere else.
"""

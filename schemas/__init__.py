"""The vocabulary that all packages share: rows, events, topics, profiles, envelopes, errors.

Imports no other package of edgeloop. What two of them must agree on is defined here and nowhere else.
"""

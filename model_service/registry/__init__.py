"""The model registry: one SQL database in which the processes of the model service meet.

Statements stand with whom they serve: each package has its own store over its tables. Candidates, which
trainer, gate, engine and guard share, have theirs here.
"""

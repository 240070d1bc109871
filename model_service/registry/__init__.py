"""The model registry: the SQL database that the processes of the model service share.

Each package has its own store over its tables. Here are the tables, the connection, and the stores of what
several packages share: candidates and bundles.
"""

"""Mutation testing: small changes of the decision modules, each of which a fast test must notice."""

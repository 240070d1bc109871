"""Resident actuators: actions go at once to a process behind a Unix socket, or to code of a user.

``newest_orders.py`` says what is sent next, ``socket_actuator.py`` and ``called_actuator.py`` send it.
"""

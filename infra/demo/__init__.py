"""The demo: a fleet, two injected changes, a network cut, and a report that counts everything."""

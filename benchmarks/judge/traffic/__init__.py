"""The judge of traffic: Eclipse SUMO, a program of its own, told what to show second by second."""

"""The judge of `machine`: rotors on bearings, simulated by ROSS (ross-rotordynamics)."""

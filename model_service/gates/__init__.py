"""Gates: what a candidate must show before its family's second key signs it.

Each gate is a pure function of what the gate process read itself (`gate_inputs`); `gate` judges and signs.
"""

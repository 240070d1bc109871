"""Gates: what a candidate must show before its family's second key signs it.

Each gate is a pure function of evidence that this process read by itself; `gate` reads and writes.
"""

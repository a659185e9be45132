"""The mathematics, the network and the single-process training loop: NumPy, SciPy and torch; no Ray, no
files.
"""

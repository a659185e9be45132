"""Joins of row digests that keep the memory of every process bounded."""

"""Rooms of Ray code, one per stage or shared; the only place that imports Ray."""

"""Jobs that look at artifacts and machines."""

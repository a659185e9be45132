"""Jobs that inspect artifacts and machines."""

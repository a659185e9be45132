"""Files on local disks and object stores: locations and locks."""

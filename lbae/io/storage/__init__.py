"""Files on local disks and object stores: locations, locks, digests, Parquet files."""

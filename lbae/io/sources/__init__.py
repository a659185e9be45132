"""Image sources: planning, reading and decoding of Parquet tables, tars and image files."""

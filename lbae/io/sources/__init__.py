"""Image sources: plan, read and decode Parquet tables, tars and folders of image files."""

"""Images, tables and artifacts on storage: pyarrow, fsspec, Pillow, safetensors; no Ray."""

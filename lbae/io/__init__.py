"""Images, tables and artifacts on storage. Uses pyarrow, fsspec, Pillow and safetensors, and no Ray."""

"""Latents in the files of other search tools: NumPy, FAISS, Lance."""

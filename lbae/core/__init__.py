"""The mathematics, the network and the single-process training loop, without Ray or files."""

"""One function per job: its options, its checks and its calls of the stages."""

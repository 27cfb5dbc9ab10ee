"""What every room of the cpu backend stands on: the processor, the compiler, other threads, vectors in memory."""

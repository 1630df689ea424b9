"""What the operator runs on: the definition, CPUs, and CUDA devices."""

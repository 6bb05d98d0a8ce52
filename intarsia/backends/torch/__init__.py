"""PyTorch, on CUDA or on the CPU, with our own networks."""

"""Tests of the kernels: in Triton's interpreter where there is no GPU, compiled where there is one."""

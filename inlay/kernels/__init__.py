"""The loop's own arithmetic. Each operation has its plain reference here; fused versions stand beside it."""

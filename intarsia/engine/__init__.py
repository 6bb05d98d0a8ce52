"""The engine, the same for every backend: request, plan, noise, denoising loop, result. Nothing here imports torch."""

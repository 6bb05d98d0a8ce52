"""The networks, their configs, and the loaders of their weights.

Modules of the networks import torch. What the backend on ONNX Runtime uses as well (tokens, chunks of prompts,
embeddings, stored arrays, LoRAs by numpy, CLIP's configs) does not.
"""

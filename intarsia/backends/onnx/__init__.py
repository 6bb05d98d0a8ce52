"""ONNX Runtime, on the CPU or through its CUDA and TensorRT providers; neither torch nor transformers is imported."""

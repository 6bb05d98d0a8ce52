"""Our networks as ONNX graphs without weights; needs torch, onnx and onnxscript. Running them needs none of these."""

"""Trained networks for other runtimes: ONNX files, their check and what runs them."""

"""Export of a tuned folder to ONNX graphs for fast serving; validation questions decide which graph serves."""

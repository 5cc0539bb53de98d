"""A tuned folder answers fast: a graph for onnxruntime beside the weights, and long chunks read to their end."""

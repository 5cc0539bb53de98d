"""Embed with a tuned folder: fast, by onnxruntime or torch, with keywords, and with long chunks read to their end."""

"""A tuned folder embeds fast, by onnxruntime or by torch, with keywords, and long chunks are read to their end."""

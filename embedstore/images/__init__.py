"""Pixels: bytes to grey levels, and grey levels to the tensor a backbone takes."""

"""Backbones: one loader a family, found by name through the registry."""

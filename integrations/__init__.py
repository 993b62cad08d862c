"""Adapters to the tools that people already use; one package each. They hold nothing of the core."""

"""How the shipped model came to be: its vocabulary, its batches, its trainer and its retrieval figure."""

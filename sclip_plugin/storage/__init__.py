"""What touches the disk: files that appear whole, texts, tensors, caches, append-only parts, fingerprints."""

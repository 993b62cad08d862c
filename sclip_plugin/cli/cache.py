"""``sclip cache``: what is kept for the next process, and an end to it."""

from __future__ import annotations

from typing import Annotated

import typer


def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Delete the cache; it is rebuilt on demand.")] = False,
) -> None:
    """Show the cache folder: embeddings of words and masks. The least recently used files are deleted first.

    Example: sclip cache --clear
    """
    from ..storage.cache import DiskCache, cache_root

    root = cache_root()
    rooms = [DiskCache(folder) for folder in sorted(root.iterdir()) if folder.is_dir()] if root.is_dir() else []
    typer.echo(str(root))
    for room in rooms:
        files = room.files()
        size = room.clear() if clear else sum(size for _, size, _ in files)
        typer.echo(f"{room.folder.name:>10}: {len(files)} files, {size / 2**20:.1f} MiB{' removed' if clear else ''}")
    if not rooms:
        typer.echo("nothing is kept")

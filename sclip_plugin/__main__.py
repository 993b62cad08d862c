"""``python -m sclip_plugin`` is ``sclip``; for torchrun: ``torchrun --nproc-per-node 4 -m sclip_plugin eval voc21``."""

from .cli.program import run

if __name__ == "__main__":
    run()

"""Run a module with Detectron2 in reach, stand-ins and all: ``python with_detectron2.py MODULE ARGUMENT…``."""

import runpy
import sys

import provision

if __name__ == "__main__":
    provision.make_importable()
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)

"""The task is there after both imports, in either order, and neither import drags in the other's weight."""

import subprocess
import sys

import pytest

REGISTERED = "assert 'zero-shot-segmentation' in transformers.pipelines.PIPELINE_REGISTRY.supported_tasks"


def run(*lines):
    """In a fresh interpreter, because what is imported here already would hide what is tested."""
    command = [sys.executable, "-W", "error:sclip_plugin could not", "-c", "\n".join(lines)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_this_package_first():
    run(
        "import sclip_plugin, sys",
        "assert not {'torch', 'transformers', 'PIL', 'numpy'} & set(sys.modules), 'imports no framework'",
        "import transformers",
        "assert 'transformers.pipelines' not in sys.modules, 'transformers stays lazy'",
        "from transformers import pipeline",
        REGISTERED,
        "assert 'sclip_plugin.segment.segmenter' not in sys.modules, 'registering costs next to nothing'",
        "module = sys.modules['transformers.pipelines']",
        "assert type(module.__loader__).__name__ == 'SourceFileLoader', 'transformers keeps its own loader'",
        "assert module.__spec__.loader is module.__loader__",
        "assert not [f for f in sys.meta_path if type(f).__module__ == 'sclip_plugin.importing'], 'no rest'",
    )


def test_transformers_first():
    run("from transformers import pipeline", "import transformers, sclip_plugin", REGISTERED)


@pytest.mark.parametrize("module", ["", ".pipeline"])
def test_explicit_import(module):
    run(
        f"from sclip_plugin.integrations.transformers{module} import ZeroShotSegmentationPipeline, register",
        "import transformers",
        REGISTERED,
        "register()",
        REGISTERED,
    )


def test_an_error_while_registering_is_a_warning():
    """The import is the user's, and succeeds."""
    run(
        "import sclip_plugin, sys, warnings",
        "sys.modules['sclip_plugin.integrations.transformers.pipeline'] = None",
        "with warnings.catch_warnings(record=True) as caught:",
        "    warnings.simplefilter('always')",
        "    from transformers import pipeline",
        "assert any('could not add itself to transformers.pipelines' in str(w.message) for w in caught)",
    )


def test_default_model_is_clip_vit_b_16():
    from transformers.pipelines import PIPELINE_REGISTRY, base

    import sclip_plugin  # noqa: F401

    _, task, options = PIPELINE_REGISTRY.check_task("zero-shot-segmentation")
    takes_framework = base.get_default_model_and_revision.__code__.co_argcount == 3
    arguments = (task, "pt", options) if takes_framework else (task, options)
    assert base.get_default_model_and_revision(*arguments) == ("openai/clip-vit-base-patch16", "57c2164")

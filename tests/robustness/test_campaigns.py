"""A short campaign of each kind; ``benchmarks/robustness.py`` runs long ones."""

import inspect
import os

import pytest

from robustness import campaigns, kills

FAULTS = {
    campaigns.pictures_in_python: 400,
    campaigns.arrays_in_python: 400,
    campaigns.pictures_on_the_command_line: 50,
    campaigns.labels_of_all_kinds: 200,
    campaigns.settings_of_all_kinds: 300,
    campaigns.model_folders: 12,
    campaigns.masks: 200,
    campaigns.benchmark_files: 60,
    campaigns.picture_logs: 200,
}
KILLS = {kills.segmenting: 8, kills.evaluating: 20, kills.sharing: 6}


@pytest.mark.parametrize("campaign", FAULTS, ids=lambda campaign: campaign.__name__)
def test_faults_end_in_a_sentence(campaign, tmp_path):
    run(campaign, FAULTS[campaign], tmp_path)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="children are forked")
@pytest.mark.parametrize("campaign", KILLS, ids=lambda campaign: campaign.__name__)
def test_what_is_killed_leaves_nothing_mixed(campaign, tmp_path):
    run(campaign, KILLS[campaign], tmp_path)


def run(campaign, count, folder):
    wants_folder = "folder" in inspect.signature(campaign).parameters
    tally = campaign(count, 0, folder) if wants_folder else campaign(count, 0)
    assert tally.faults >= count
    assert not tally.accidents, "\n".join(tally.accidents[:10])

"""Campaigns of faults, short ones as tests."""

"""Where a picture is not as it should be: normal against abnormal, in words or in learned prompts."""

from .detector import Anomaly, AnomalyDetector

__all__ = ["Anomaly", "AnomalyDetector"]

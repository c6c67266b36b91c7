"""Hypothesis measures no time: on a busy machine that says nothing of the code."""

from hypothesis import HealthCheck, settings

settings.register_profile("tessera", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tessera")

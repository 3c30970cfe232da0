"""Serving a smaller policy: in 8 bits, or distilled into a smaller network."""

from textrl_agents.serving.distillation import Distillation, DistillationConfig, distil
from textrl_agents.serving.quantisation import network_bytes, quantised

__all__ = ["Distillation", "DistillationConfig", "distil", "network_bytes", "quantised"]

"""What the devices offer, asked once."""

from functools import cache

import torch

from attnref_triton.tables import Chip

PAPER = Chip(capability=9, processors=4, shared=2**30)
"""Triton's interpreter: few processors, so that a small call already cuts its keys into parts."""


@cache
def chip_of(device: torch.device) -> Chip:
    """Describe a device."""
    if device.type != "cuda":
        return PAPER
    p = torch.cuda.get_device_properties(device)
    return Chip(p.major, p.multi_processor_count, p.shared_memory_per_block_optin)

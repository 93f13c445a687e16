"""The only owner of llama.cpp's handles: vocabulary, weights, context, sampler.

Contract: every object here is used by one thread, the compute thread, and freed by it. Token ids go in, rows of
logits come out; nothing here knows what a request, a role or a message is. `AbortFlag.set` alone may be called
from any thread.
"""

from engine.llama.context import Context, ContextParams
from engine.llama.devices import Device, backends, devices, idle_backend, system_info
from engine.llama.library import has_gpu
from engine.llama.model import Model
from engine.llama.sampler import Sampler
from engine.llama.vocabulary import Vocabulary

__all__ = [
    "Context",
    "ContextParams",
    "Device",
    "Model",
    "Sampler",
    "Vocabulary",
    "backends",
    "devices",
    "has_gpu",
    "idle_backend",
    "system_info",
]

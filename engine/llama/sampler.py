"""llama.cpp's choice of the next token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.errors import EngineClosed
from engine.llama.context import Context
from engine.llama.library import lib

if TYPE_CHECKING:
    from engine.sampling import SamplingParams

_PENALTY_LAST = 64  # tokens back that the repeat penalty looks at, as in llama.cpp


class Sampler:
    """llama.cpp's sampler chain for one request."""

    def __init__(self, params: SamplingParams, seed: int, n_vocab: int) -> None:
        library = lib()
        chain = library.llama_sampler_chain_init(library.llama_sampler_chain_default_params())
        self._chain: Any = chain
        links = []
        if params.repeat_penalty != 1.0:
            links.append(library.llama_sampler_init_penalties(n_vocab, _PENALTY_LAST, params.repeat_penalty, 0.0, 0.0))
        if params.temperature == 0:
            links.append(library.llama_sampler_init_greedy())
        else:
            links += [
                library.llama_sampler_init_top_k(params.top_k),  # unset, it would sort the whole vocabulary every time
                library.llama_sampler_init_top_p(params.top_p, 1),
                library.llama_sampler_init_min_p(params.min_p, 1),
                library.llama_sampler_init_temp(params.temperature),
                library.llama_sampler_init_dist(seed),
            ]
        for link in links:
            library.llama_sampler_chain_add(chain, link)

    def sample(self, context: Context, row: int) -> int:
        """Draw a token from the logits of batch entry `row` and remember it for the penalty."""
        return int(lib().llama_sampler_sample(self._live, context.handle, row))

    def accept(self, token: int) -> None:
        """Remember a token that was not drawn but forced."""
        lib().llama_sampler_accept(self._live, token)

    def close(self) -> None:
        """Free the chain."""
        if self._chain:
            chain, self._chain = self._chain, None
            lib().llama_sampler_free(chain)

    @property
    def _live(self) -> Any:
        if not self._chain:
            raise EngineClosed("the sampler was closed")
        return self._chain

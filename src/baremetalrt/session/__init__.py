"""One generation: route, prefill, decode, sampling, stop. Local and remote are one code path."""

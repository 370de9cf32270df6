"""Other builds of ggml and libllama: known ones, fetched, checked, unpacked and chosen."""

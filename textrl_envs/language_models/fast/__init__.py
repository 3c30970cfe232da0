"""The fast path: the same numbers as the plain one, sooner. A reader may skip this folder.

`PrefixReader` and `Decoder` say what is computed; here is how it is computed quickly, where the
model and the machine allow it. Whatever is unknown here falls back to Transformers' own forward.

linear.py      matrix products by oneDNN, where torch's own leave half of the machine idle
attention.py   attention of new tokens to the cache, by a small compiled loop (attention.c)
softmax.py     draws and entropies from logits, by another (softmax.c)
gelu.py        GELU with its slope in one pass, by another (gelu.c)
compiled.py    compiles the loops when they are first needed
threads.py     in how many threads loops and products run
decode.py      a token a row: GPT-2 and Llama/Qwen forwards over the model's own weights
cuda_graph.py  on CUDA, one launch for the step of all rows
packing.py     whole texts without padding: Transformers' forward over one long row
"""

"""The fast path: the same numbers as the plain one, sooner. A reader may skip this folder.

`PrefixReader` and `Decoder` say what is computed; here is how it is computed quickly, where the
model and the machine allow it. Whatever is unknown here falls back to Transformers' own forward.

linear.py            matrix products by oneDNN, where torch's own leave half of the machine idle
one_row.py           products with one row, by a small compiled loop (one_row.c)
int8.py              products of a frozen model in 8 bits, by another (int8.c)
attention.py         attention of new tokens to the cache, by another (attention.c)
packed_attention.py  attention of whole texts, with gradients, by another (packed_attention.c)
softmax.py           draws and entropies from logits, by another (softmax.c)
gelu.py              GELU with its slope in one pass, by another (gelu.c)
compiled.py          compiles the loops when they are first needed
threads.py           in how many threads loops and products run
rows.py              rows taken out of a tensor and laid into one, with gradients
operations.py        puts the faster functions in the place of a Transformers model's own
decode.py            a token a row: GPT-2 and Llama/Qwen forwards over the model's own weights
cuda_graph.py        on CUDA, one launch for the step of all rows
packing.py           whole texts without padding: Transformers' forward over one long row
shared_prefix.py     what texts share, as the responses to a prompt do, is read once
"""

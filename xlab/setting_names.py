"""Names of settings: which describe a decoder, and which say a class."""

# the arguments of XLabModel that describe the decoder, in its own words
SIZES = (
    *("vocab_size", "max_len", "d_model", "n_layers", "n_heads", "d_ff", "dropout", "tie_embeddings"),
    *("embedding_scale", "logit_scale", "logit_cap"),
)
OPTIONAL_PARTS = ("value_mix", "embedding_norm")
PARTS = ("attention", "norm", "feed_forward", "position", "block", "initialisation", *OPTIONAL_PARTS)
# every setting whose value, even a bare string, names a class
CLASS_SETTINGS = {
    *(*PARTS, "objective", "optimizer", "schedule", "lora"),
    *("source", "val_source", "test_source", "predict_source", "tokenizer", "packing"),
}

"""Data: readers, the tokenizer and the dialogue template, token stores, the order of samples, batches."""

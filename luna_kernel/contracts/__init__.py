"""What a plugin implements: one file per family, each the page that its author reads."""

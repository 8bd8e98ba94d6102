"""What every room stands on: errors, messages, paths, durable files, integrity, settings, logging."""

"""One metric a file: pure functions of counts, times, pictures or features, that know nothing of models."""

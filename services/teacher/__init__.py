"""The teacher service: attributions and answers of models that are loaded on demand."""

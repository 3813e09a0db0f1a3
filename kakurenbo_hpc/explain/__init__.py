"""Explanations of every key of job, machine and comparison files: text, JSON Schema, Markdown tables."""

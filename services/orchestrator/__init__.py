"""The orchestrator: OpenAI's Files and Fine-tuning wire format before a pipeline of work items, and its workers."""

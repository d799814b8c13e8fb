"""From dataclasses to what people and programs read: JSON documents, tables, and the progress of a run."""

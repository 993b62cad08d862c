"""Pictures in, their resizing, and refinement along their colours."""

"""What Fieldbook is held against. All use its tables and its paths, and the same consistency levels."""

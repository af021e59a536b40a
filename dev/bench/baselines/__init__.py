"""The baselines. Each uses Fieldbook's tables, URL paths and consistency levels."""

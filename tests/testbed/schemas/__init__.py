"""Request and response models of the testbed."""

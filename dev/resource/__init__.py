"""Add a resource to this project, and remove one."""

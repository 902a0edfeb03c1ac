"""Deployers: one module for each sort of model that can be deployed from the program that made it."""

"""Sharing a measurement among workers: numbers per sample, stored part by part until a score is known."""

"""Nearfar inside other libraries."""

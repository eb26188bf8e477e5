"""Measuring and deciding: metrics, statistics, ranking, the study and the two commands."""

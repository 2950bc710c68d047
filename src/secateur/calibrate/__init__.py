"""Calibration samples and statistics, streamed block by block in bounded memory."""

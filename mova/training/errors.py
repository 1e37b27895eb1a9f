"""What can go wrong in a training that its owner can mend.

TrainingError
└── ClipError
"""

from __future__ import annotations


class TrainingError(Exception):
    """A run can't go on, or can't begin; the message says why, and what to do."""


class ClipError(TrainingError):
    """A clip can't be learned from; the message names it, and says what to do."""

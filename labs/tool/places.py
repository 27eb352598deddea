"""places.py: where a check can run: on this host, or in the lab machine (tests/labvm), which has a full KVM.

The tier of a check says what it needs: "unit" nothing, "kvm" any KVM that runs simple guests, "full" one that
delivers interrupts. LAB_KVM=native runs all here, LAB_KVM=labvm all but unit checks there, whatever the host can.
"""

import os

import probe

NEEDS = {"unit": probe.NONE, "kvm": probe.KVM, "full": probe.FULL}


def inside():
    """Are we in the lab machine?"""
    return "LABVM" in os.environ


def is_here(check):
    """Can this host run the check?"""
    if inside() or check.tier == "unit" or os.environ.get("LAB_KVM") == "native":
        return True
    if os.environ.get("LAB_KVM") == "labvm":
        return False
    return probe.LEVELS.index(probe.level()) >= probe.LEVELS.index(NEEDS[check.tier])


def split(checks, is_here=is_here):
    """(those that run here, those that need the lab machine)."""
    return [check for check in checks if is_here(check)], [check for check in checks if not is_here(check)]

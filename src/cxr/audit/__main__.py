"""Look for copies, leaks and shortcuts among radiographs, before any training: python -m cxr.audit --help"""

from __future__ import annotations

import sys

from cxr.command_line import Job, launch


def audit(job: Job) -> None:
    """Read and divide the records, look at them, write what was found, and refuse a split that leaks."""
    from cxr.assembly import audit_collection
    from cxr.report import report_audit

    found, folder = audit_collection(job.settings)
    report_audit(found, folder)
    found.require_no_leak()


if __name__ == "__main__":
    sys.exit(launch(audit, "audit"))

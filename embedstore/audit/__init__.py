"""What makes scores of a store untrue: leaks, duplicates, label errors, shortcuts, strays."""

from embedstore.audit.findings import Audit, Finding, Section
from embedstore.audit.whole import Questions, audit

__all__ = ["Audit", "Finding", "Questions", "Section", "audit"]

"""A synthetic Medi-Cal, written as the files that agencies would send. Same members and seed, same bytes.

Nobody in it exists: names, ids, notes, plans and providers are invented, ids lie in ranges that are never issued.
"""

from workbench.lake.synthetic.generate import Progress, Summary, SynthRefused, write

__all__ = ["Progress", "Summary", "SynthRefused", "write"]

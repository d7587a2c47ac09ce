"""Results that are kept between runs, by the hash of what they depend on.

=========  ================================================================
module     what is in it
=========  ================================================================
store      entries on disk: written whole, checked when read, bounded in size
packing    results as bytes, and the hashes of values
=========  ================================================================

Which results are kept, and what each depends on, is a table in :mod:`ncnnkit.reuse`.
"""

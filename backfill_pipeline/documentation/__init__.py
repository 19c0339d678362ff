"""The documentation made from the code: pages of reference, and what the site needs beyond MkDocs.

Belongs here: writing `docs/reference/` (`python -m backfill_pipeline.documentation`), the hooks of the site.
Does not: pages that people write (`docs/`). Nothing of the product imports this package.
"""

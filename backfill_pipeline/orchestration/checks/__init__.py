"""Asset checks that stand by themselves: they look at the ledger, whoever wrote it, and run whenever somebody asks."""

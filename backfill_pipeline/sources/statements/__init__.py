"""Bank statements: MT940 and camt, with their control of balances."""

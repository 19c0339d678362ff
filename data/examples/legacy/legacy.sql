-- A made-up ledger of an older system, in the shape of the strategy document's ledger_entries_legacy: 2,000 bookings between
-- a till, a fee account and ten customers, and five more rows that are not fit to be posted or are there twice.
CREATE TABLE ledger_entries_legacy (
    id                bigint PRIMARY KEY,
    ledger_id         text NOT NULL,
    debit_account_id  integer NOT NULL,
    credit_account_id integer NOT NULL,
    amount            numeric(20, 2) NOT NULL,
    currency_code     char(3) NOT NULL,
    transaction_type  text,
    reference_id      text NOT NULL,
    booked_at         timestamp,            -- UTC, without saying so
    status            text NOT NULL,
    description       text
);

-- Three deposits, then a withdrawal of the same customer; a fee every tenth booking.
INSERT INTO ledger_entries_legacy
SELECT 10 * n, 'master',
       CASE WHEN n % 10 = 9 THEN 2000 + n / 20 % 10 WHEN n % 4 = 3 THEN 2000 + n / 4 % 10 ELSE 1000 END,
       CASE WHEN n % 10 = 9 THEN 9000 WHEN n % 4 = 3 THEN 1000 ELSE 2000 + n / 4 % 10 END,
       CASE WHEN n % 10 = 9 THEN 1.50 WHEN n % 4 = 3 THEN 20 + n % 7 ELSE 100 + n % 90 + 0.25 END,
       'eur',
       CASE WHEN n % 10 = 9 THEN 'fee' WHEN n % 4 = 3 THEN 'withdrawal' WHEN n % 5 > 0 THEN 'deposit' END,
       'OLD-' || lpad(n::text, 6, '0'),
       timestamp '2023-01-01 08:00' + n * interval '3 hours',
       'booked',
       CASE WHEN n % 3 = 0 THEN 'booking ' || n END
FROM generate_series(1, 2000) AS n;

INSERT INTO ledger_entries_legacy VALUES
    (9005, 'master', 1000, 2003, 50.00, 'eur', 'deposit', 'OLD-000042', timestamp '2023-01-06 14:00', 'booked', NULL),  -- the reference of another booking
    (12005, 'master', 1000, 2004, 75.00, 'eur', 'deposit', 'OLD-002002', NULL, 'booked', NULL),                         -- no time
    (15005, 'master', 1000, 2005, 0.00, 'eur', 'deposit', 'OLD-002003', timestamp '2023-09-09 09:00', 'booked', NULL),  -- moves nothing
    (17005, 'master', 1000, 2006, 99.00, 'eur', 'deposit', 'OLD-002004', timestamp '2023-09-09 10:00', 'void', NULL);   -- was taken back

-- The very same booking twice.
INSERT INTO ledger_entries_legacy
SELECT 105, ledger_id, debit_account_id, credit_account_id, amount, currency_code, transaction_type, reference_id,
       booked_at, status, description
FROM ledger_entries_legacy WHERE id = 70;

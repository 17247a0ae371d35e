//! Events in LMDB: tables, keys, records, write rules, plans and scans.

//! Bech32 identifiers (NIP-19): npub, nsec, note, nprofile, nevent and naddr, read and written.

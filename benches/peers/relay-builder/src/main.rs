//! A relay of the crates nostr-relay-builder and nostr-lmdb, to compare ratite with: `relay-builder-peer PORT FOLDER`.

use std::error::Error;

use nostr_lmdb::NostrLMDB;
use nostr_relay_builder::builder::RateLimit;
use nostr_relay_builder::{LocalRelay, RelayBuilder};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(port), Some(folder)) = (args.next(), args.next()) else {
        return Err("usage: relay-builder-peer PORT FOLDER".into());
    };
    let unlimited = RateLimit { max_reqs: usize::MAX, notes_per_minute: u32::MAX };
    let builder = RelayBuilder::default()
        .addr([127, 0, 0, 1].into())
        .port(port.parse()?)
        .database(NostrLMDB::open(folder)?)
        .max_filter_limit(5000)
        .rate_limit(unlimited);
    let relay = LocalRelay::new(builder);
    relay.run().await?;
    std::future::pending().await
}

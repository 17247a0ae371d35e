//! `ratite key`: the relay's own key.

use clap::Args;
use serde_json::json;

use super::failure::{CLEAN, Outcome};
use super::globals::Globals;
use super::output::{print, print_json};
use crate::nostr::nip19;
use crate::relay::identity::{FILE, Identity};
use crate::store::Store;

/// Show the relay's own key
#[derive(Args, Debug)]
#[command(
    long_about = "Show the public key that the relay itself has, and make one if it has none yet. With it the relay signs what it says of its members (NIP-43); \
        clients find it in the relay's information document and know the relay by it.\n\n\
        The secret lies in the file relay.key in the data folder, which only the relay's user can read. `ratite backup` leaves it out: \
        keep a copy of it in a safe place. To give the relay a key that you have already, stop it and write the nsec into that file, with permissions 600."
)]
pub(super) struct KeyArgs {
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &KeyArgs, globals: &Globals) -> Outcome {
    let config = globals.load()?;
    let folder = &config.storage.path;
    // The folder is made as the relay makes it, so that the key can be known before the first start.
    drop(Store::open(folder, config.storage.map_size)?);
    let key = Identity::load_or_create(folder)?.pubkey();
    let file = folder.join(FILE);
    if args.json {
        print_json(&json!({ "pubkey": key.to_string(), "npub": nip19::encode_npub(&key), "file": file }))?;
    } else {
        print(&format!("{}\n{key}\nthe secret is in {}\n", nip19::encode_npub(&key), file.display()))?;
    }
    Ok(CLEAN)
}

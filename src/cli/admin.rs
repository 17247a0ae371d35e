//! `ratite admin`: the methods of the management API (NIP-86) on the command line.

use clap::Args;
use serde_json::Value;

use super::failure::{CLEAN, Failure, Outcome};
use super::globals::Globals;
use super::output::{print, print_json};
use crate::nostr::nip19;
use crate::relay::{Relay, Settings, admin};

/// Ban and allow keys, events, kinds and addresses
#[derive(Args, Debug)]
#[command(
    long_about = "Manage the relay, running or not: ban and allow keys, events and kinds, block addresses, and change what the relay says about itself. \
        These are the methods of NIP-86, which the keys in policy.admins can call over HTTP as well. Without a method this \
        lists them all.\n\n\
        A banned key can publish no more, and what it published is shown to nobody until the ban is lifted; purgepubkey removes it. \
        A banned event is removed and does not come back. Once a key or a kind is allowed, only those that are allowed are taken.",
    after_help = "\
Examples:
  ratite admin banpubkey npub1… \"sells watches\"
  ratite admin purgepubkey npub1…
  ratite admin listbannedpubkeys
  ratite admin allowkind 1
  ratite admin changerelayname \"a quiet place\"

Exit codes: 0 done, 1 it failed."
)]
pub(super) struct AdminArgs {
    /// The method
    #[arg(value_name = "METHOD")]
    method: Option<String>,
    /// What it takes: keys and events as npub1…, note1… or hexadecimal
    #[arg(value_name = "PARAMETER")]
    params: Vec<String>,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &AdminArgs, globals: &Globals) -> Outcome {
    let Some(method) = &args.method else {
        let lines = admin::methods().map(|(name, params)| format!("{}\n", format!("{name} {params}").trim_end()));
        print(&lines.collect::<String>())?;
        return Ok(CLEAN);
    };
    let params: Vec<Value> = args.params.iter().enumerate().map(|(at, param)| read(method, at, param)).collect();
    let (store, config) = globals.open_existing()?;
    let relay = Relay::start(store, Settings::from_config(&config))?;
    let result = admin::call(&relay, method, &params);
    relay.shutdown();
    let result = result.map_err(|error| Failure::new(error, "`ratite admin` lists the methods."))?;
    match &result {
        _ if args.json => print_json(&result)?,
        Value::Array(items) => print(&items.iter().map(|item| format!("{}\n", plain(item))).collect::<String>())?,
        Value::Bool(true) => print("done\n")?,
        other => print(&format!("{other}\n"))?,
    }
    Ok(CLEAN)
}

/// A parameter as the methods take it: identifiers as hexadecimal, kinds and limits as numbers.
fn read(method: &str, at: usize, param: &str) -> Value {
    let is_number = method.ends_with("kind") || method.starts_with("list");
    if at == 0
        && is_number
        && let Ok(number) = param.parse::<u64>()
    {
        return number.into();
    }
    if at == 0 && method.ends_with("pubkey") {
        return nip19::parse_pubkey(param).map_or_else(|_| param.to_owned(), |key| key.to_string()).into();
    }
    if at == 0 && method.ends_with("event") {
        return nip19::parse_event_id(param).map_or_else(|_| param.to_owned(), |id| id.to_string()).into();
    }
    param.into()
}

/// An item of a list on a line: what it is, and the reason behind it.
fn plain(item: &Value) -> String {
    let Value::Object(item) = item else { return item.as_str().map_or_else(|| item.to_string(), str::to_owned) };
    let words = ["pubkey", "id", "ip", "reason"].iter().filter_map(|name| item.get(*name)?.as_str());
    words.collect::<Vec<_>>().join(" ")
}

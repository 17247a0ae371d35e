//! `ratite admin`: the methods of the management API (NIP-86) on the command line.

use clap::Args;
use serde_json::Value;

use super::failure::{CLEAN, FAILED, Failure, Outcome};
use super::globals::Globals;
use super::output::{print, print_json};
use super::time;
use crate::nostr::nip19;
use crate::relay::{Relay, Settings, admin};

/// Ban and allow keys, events, kinds and addresses
#[derive(Args, Debug)]
#[command(
    long_about = "Manage the relay, running or not: ban and allow keys, events and kinds, block addresses, and change what the relay says about itself. \
        These are the methods of NIP-86, which the keys in policy.admins can call over HTTP as well. Without a method this \
        lists them all.\n\n\
        A banned key can publish no more, and what it published is shown to nobody until the ban is lifted; purgepubkey removes it. \
        A banned event is removed and does not come back. Once a key or a kind is allowed, only those that are allowed are taken.\n\n\
        On a relay with members ([membership] of the configuration) the allowed keys are the members: allowpubkey adds one, unallowpubkey takes it off. createinvite makes a code with \
        which somebody joins; it is good for one person and a week unless you say otherwise (0 for no bound). assignmethod lets another key call a method over HTTP.",
    after_help = "\
Examples:
  ratite admin banpubkey npub1… \"sells watches\"
  ratite admin purgepubkey npub1…
  ratite admin listbannedpubkeys
  ratite admin allowkind 1
  ratite admin createinvite 20 86400 \"meet-up\"
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
        // True or false, and in which words.
        Value::Array(said) if matches!(said[..], [Value::Bool(_), Value::String(_)]) => {
            print(&format!("{}\n", said[1].as_str().unwrap_or_default()))?;
            return Ok(if said[0] == true { CLEAN } else { FAILED.into() });
        }
        Value::Array(items) => print(&items.iter().map(|item| format!("{}\n", plain(item))).collect::<String>())?,
        Value::Bool(true) => print("done\n")?,
        Value::String(text) => print(&format!("{text}\n"))?,
        other => print(&format!("{other}\n"))?,
    }
    Ok(CLEAN)
}

/// A parameter as the methods take it, by the word for it: keys and events as hexadecimal, numbers as numbers.
fn read(method: &str, at: usize, param: &str) -> Value {
    let words = admin::methods().find(|(name, _)| *name == method).map_or("", |(_, words)| words);
    let word = words.split(' ').nth(at).unwrap_or_default().trim_matches(['[', ']']);
    let text = || param.to_owned();
    match word {
        "PUBKEY" => nip19::parse_pubkey(param).map_or_else(|_| text(), |key| key.to_string()).into(),
        "ID" => nip19::parse_event_id(param).map_or_else(|_| text(), |id| id.to_string()).into(),
        "KIND" | "LIMIT" | "USES" | "SECONDS" | "COLOR" | "ORDER" => {
            param.parse::<u64>().map_or(text().into(), Value::from)
        }
        "AFTER" if method.ends_with("kinds") => param.parse::<u64>().map_or(text().into(), Value::from),
        _ => text().into(),
    }
}

/// An item of a list on a line: what it is, what is known of it, and the reason behind it.
fn plain(item: &Value) -> String {
    let Value::Object(item) = item else { return item.as_str().map_or_else(|| item.to_string(), str::to_owned) };
    const FIRST: [&str; 4] = ["pubkey", "id", "ip", "code"];
    let first = FIRST.iter().filter_map(|name| item.get(*name)?.as_str().map(str::to_owned));
    let known = item.iter().filter(|(name, _)| !FIRST.contains(&name.as_str()) && *name != "reason");
    let known = known.filter_map(|(name, value)| match value {
        Value::Number(number) if name == "until" => Some(format!("until {}", time::show(number.as_u64()?))),
        Value::Number(number) => Some(format!("{name} {number}")),
        Value::Array(names) => {
            let names: Vec<&str> = names.iter().filter_map(Value::as_str).collect();
            Some(format!("{name} {}", names.join(",")))
        }
        Value::Bool(true) => Some(name.clone()),
        Value::String(text) if !text.is_empty() => Some(format!("{name} {text}")),
        _ => None,
    });
    let reason = item.get("reason").and_then(Value::as_str).map(str::to_owned);
    first.chain(known).chain(reason).collect::<Vec<_>>().join(" ")
}

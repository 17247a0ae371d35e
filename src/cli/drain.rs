//! `ratite drain`: have a running relay hand its clients over.

use std::io;

use clap::Args;

use super::failure::{CLEAN, Failure, Outcome};
use super::globals::Globals;
use super::output::print;
use crate::server::{Neighbour, neighbours};

/// Have the running relay hand over to another one
#[derive(Args, Debug)]
#[command(
    long_about = "Have the running relay hand over: it accepts no new clients, lets those it has stay for listen.drain_wait, sends the rest \
        away one by one over listen.drain_spread, and ends. Everything it promised is kept, and until the end both relays serve \
        what either takes in.\n\n\
        To upgrade without dropping anybody, start the new relay beside the old one, with the same configuration, and then run \
        this: when several relays run over the same data, all but the newest hand over. SIGUSR1 asks a relay for the same.\n\n\
        Connections that the kernel has accepted are served. One whose handshake is under way at that very moment may have to \
        try again; with `sysctl net.ipv4.tcp_migrate_req=1` Linux hands over those as well.",
    after_help = "\
Examples:
  ratite relay & ratite drain          a new relay takes over from the old one
  ratite drain --wait                  come back when the old one has ended"
)]
pub(super) struct DrainArgs {
    /// Come back only when it has ended
    #[arg(long)]
    wait: bool,
}

pub(super) fn run(args: &DrainArgs, globals: &Globals) -> Outcome {
    let config = globals.load()?;
    let data = config.storage.path.display();
    let mut running = neighbours(&config.storage.path)
        .map_err(|error| Failure::io(format!("cannot look for relays in {data}"), &error, "Check the folder."))?;
    running.retain(|neighbour| !neighbour.hands_over || args.wait);
    let serving = running.iter().filter(|neighbour| !neighbour.hands_over).count();
    if running.is_empty() {
        return Err(Failure::new(
            format!("no relay runs over {data}"),
            "Name its folder with --data, or its configuration with --config.",
        ));
    }
    let successor = if serving > 1 { running.pop() } else { None };
    for relay in &running {
        if !relay.hands_over {
            let stays = relay.ask_to_hand_over().map_err(|error| refused(relay, &error))?;
            let text = if stays { "accepts no new clients and hands over those it has" } else { "has ended" };
            print(&format!("the relay in process {} {text}\n", relay.pid))?;
        }
    }
    match successor {
        Some(relay) => print(&format!("new clients come to process {}\n", relay.pid))?,
        None => print("no other relay serves this data: new clients find nobody until one is started\n")?,
    }
    if args.wait {
        for relay in &running {
            relay.wait().map_err(|error| refused(relay, &error))?;
        }
    }
    Ok(CLEAN)
}

fn refused(relay: &Neighbour, error: &io::Error) -> Failure {
    let what = format!("the relay in process {} cannot be asked to hand over", relay.pid);
    match error.kind() {
        io::ErrorKind::PermissionDenied => Failure::io(what, error, "Run this as the user that runs the relay."),
        io::ErrorKind::TimedOut => Failure::new(format!("{what}: it does not answer"), "Look into its log."),
        _ => Failure::io(what, error, "It may run on another machine or in another container; send SIGUSR1 there."),
    }
}

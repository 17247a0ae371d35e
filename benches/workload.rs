//! `cargo bench --bench workload -- --events 200000 --seed 1 > file`: writes the workload as JSONL.

mod kit;

use clap::Parser;
use kit::workload::{END, Spec};

/// Realistic signed events as JSONL, the same for the same arguments
#[derive(Parser)]
struct Args {
    /// How many events
    #[arg(long, default_value_t = 200_000)]
    events: u64,
    /// Another seed gives other events
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Accounts; 0 for one to forty events, at most 200,000
    #[arg(long, default_value_t = 0)]
    authors: usize,
    /// Unix seconds of the newest event
    #[arg(long, default_value_t = END)]
    end: u64,
    /// Days over which the events are spread
    #[arg(long, default_value_t = 90)]
    days: u64,
    /// Random bytes instead of signatures, for `ratite import --no-verify`
    #[arg(long)]
    unsigned: bool,
    /// Write to this file instead of standard output
    #[arg(short, long)]
    output: Option<std::path::PathBuf>,
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> kit::Result<()> {
    if !kit::wanted() {
        return Ok(());
    }
    let Args { events, seed, authors, end, days, unsigned, output, bench: _ } = Args::parse();
    let out: Box<dyn std::io::Write> = match output {
        Some(path) => Box::new(std::fs::File::create(path)?),
        None => Box::new(std::io::stdout().lock()),
    };
    kit::workload::write(Spec { events, seed, authors, end, days, stream: 0, sign: !unsigned }, out)
}
